/* Updates and errors handed back of the integer kernels against their plain bodies (built under the names plain_*) on drawn shapes; the exit
 * code is the kernel that differs, 0 if none does. SHAPES shapes from SEED on. */
#include <string.h>

#include "board.h"
#include "lfwd_integer.h"

void plain_lfwd_int_outer_update(int16_t *masters, const lfwd_int_update *u, int32_t batch, int32_t out, int32_t in, const int64_t *index,
                                 int32_t columns, uint16_t *scratch);
void plain_lfwd_int_outer_velocity(int16_t *velocity, const lfwd_int_update *u, const int32_t *rate, int32_t batch, int32_t out, int32_t in,
                                   uint16_t *scratch);
void plain_lfwd_int_conv_update(int16_t *masters, const lfwd_int_update *u, const lfwd_int_conv_shape *s, const int64_t *index,
                                int32_t columns, uint16_t *scratch);
void plain_lfwd_int_conv_velocity(int16_t *velocity, const lfwd_int_update *u, const int32_t *rate, const lfwd_int_conv_shape *s,
                                  uint16_t *scratch);
void plain_lfwd_int_linear_back(const int16_t *e, const lfwd_int_weight *w, int32_t batch, int32_t out, int32_t in, int32_t *acc);
void plain_lfwd_int_conv_back(const int16_t *e, const lfwd_int_weight *w, const lfwd_int_conv_shape *s, void *scratch, int32_t *acc);
void plain_lfwd_int_conv(const int8_t *x, const lfwd_int_weight *w, const int32_t *bias, const int8_t *x_exponent,
                         const lfwd_int_conv_shape *s, void *scratch, int32_t *acc);

void board_init(void) {}

static uint32_t seed = SEED;
static int32_t draw(int32_t low, int32_t high)
{
    seed = seed * 1664525u + 1013904223u;
    return low + (int32_t)((seed >> 8) % (uint32_t)(high - low + 1));
}

enum { ROOM = 12 * 1024 };
static int16_t a[ROOM], b[ROOM], c[ROOM];
static int32_t sums_a[ROOM], sums_b[ROOM];
static int8_t x[ROOM], frozen[ROOM], exponents[64];
static uint32_t scratch[ROOM];
static int32_t biases[64];

static int differ(void)
{
    return memcmp(a, b, sizeof a) != 0 || memcmp(sums_a, sums_b, sizeof sums_a) != 0;
}

static void fill(int32_t bits)
{
    for (int32_t k = 0; k < ROOM; k++) {
        a[k] = b[k] = (int16_t)draw(-32768, 32767), c[k] = (int16_t)(draw(0, 3) ? draw(-32768, 32767) >> (16 - bits) : 0);
        sums_a[k] = sums_b[k] = 0;
    }
}

int main(void)
{
    for (int32_t k = 0; k < ROOM; k++) x[k] = (int8_t)draw(-127, 127), frozen[k] = (int8_t)draw(-127, 127);
    for (int n = 0; n < SHAPES; n++) {
        const int32_t usual = draw(0, 1), batch = draw(0, 1) ? 1 : draw(1, 9); /* half of the filters are 3x3 at stride 1 */
        lfwd_int_conv_shape s = {batch, draw(1, 9), draw(1, 9), draw(1, 11), draw(1, 19), 0, 0, 3, 3, 1, 1, 1, 1, 1, 1, 1};
        if (!usual) {
            s.k_h = draw(1, 5), s.k_w = draw(1, 4), s.stride_h = draw(1, 2), s.stride_w = draw(1, 2);
            s.dil_h = draw(1, 2), s.dil_w = draw(1, 2), s.pad_h = draw(0, 2), s.pad_w = draw(0, 2);
            if (!draw(0, 2)) s.groups = draw(1, 3), s.in_c *= s.groups, s.out_c = s.groups * draw(1, 6);
        }
        const int32_t h = s.in_h + 2 * s.pad_h - s.dil_h * (s.k_h - 1) - 1, v = s.in_w + 2 * s.pad_w - s.dil_w * (s.k_w - 1) - 1;
        int64_t counter = draw(0, 1 << 20), index[16];
        int8_t c_exponent = (int8_t)draw(0, 30), x_exponent = (int8_t)draw(-2, 12);
        const int32_t rate[3] = {20000, 15, draw(0, 3) ? 29491 : 0}, bits = draw(0, 1) ? 16 : draw(6, 15);
        for (int o = 0; o < 64; o++) exponents[o] = (int8_t)draw(4, 9), biases[o] = draw(-9999, 9999);
        const lfwd_int_update u = {c, &c_exponent, x, &x_exponent, exponents, &counter, (uint32_t)draw(0, 99)};
        const lfwd_int_weight masters = {b, 0, exponents}, fixed = {0, frozen, exponents};
        int64_t next = 0;
        for (int i = 0; i < 16; i++) index[i] = next, next += draw(1, draw(1, 3));
        const int32_t part = draw(0, 1), width = part ? (int32_t)next + 1 : s.in_c / s.groups;
        if (h >= 0 && v >= 0) {
            s.out_h = h / s.stride_h + 1, s.out_w = v / s.stride_w + 1;
            while (s.batch * s.out_c * s.out_h * s.out_w > ROOM || s.batch * s.in_c * s.in_h * s.in_w > ROOM) s.batch--;
            const int32_t narrow = 24 - bits; /* no sum may overflow: places times batch */
            if (s.out_h * s.out_w * s.batch >= 1 << narrow) fill(8);
            else fill(bits);
            const int64_t *some = part && s.groups == 1 ? index : 0;
            lfwd_int_conv_update(a, &u, &s, some, some ? width : s.in_c / s.groups, (uint16_t *)(void *)scratch);
            plain_lfwd_int_conv_update(b, &u, &s, some, some ? width : s.in_c / s.groups, (uint16_t *)(void *)scratch);
            if (differ()) return 11;
            lfwd_int_conv_velocity(a, &u, rate, &s, (uint16_t *)(void *)scratch);
            plain_lfwd_int_conv_velocity(b, &u, rate, &s, (uint16_t *)(void *)scratch);
            if (differ()) return 12;
            for (int k = 0; k < 2; k++) {
                for (int32_t i = 0; i < ROOM; i++) c[i] = (int16_t)(c[i] >> 4);
                lfwd_int_conv_back(c, k ? &fixed : &masters, &s, scratch, sums_a);
                plain_lfwd_int_conv_back(c, k ? &fixed : &masters, &s, scratch, sums_b);
                if (differ()) return 13;
                lfwd_int_conv(x, k ? &fixed : &masters, (k + n) % 3 ? biases : 0, &x_exponent, &s, scratch, sums_a);
                plain_lfwd_int_conv(x, k ? &fixed : &masters, (k + n) % 3 ? biases : 0, &x_exponent, &s, scratch, sums_b);
                if (differ()) return 17;
            }
        }
        const int32_t out = draw(1, 30), in = draw(1, part ? 16 : 70);
        fill(batch == 1 ? bits : bits > 12 ? 12 : bits);
        lfwd_int_outer_update(a, &u, batch, out, in, part ? index : 0, part ? (int32_t)next + 1 : in, (uint16_t *)(void *)scratch);
        plain_lfwd_int_outer_update(b, &u, batch, out, in, part ? index : 0, part ? (int32_t)next + 1 : in, (uint16_t *)(void *)scratch);
        if (differ()) return 14;
        lfwd_int_outer_velocity(a, &u, rate, batch, out, in, (uint16_t *)(void *)scratch);
        plain_lfwd_int_outer_velocity(b, &u, rate, batch, out, in, (uint16_t *)(void *)scratch);
        if (differ()) return 15;
        for (int k = 0; k < 2; k++) {
            lfwd_int_linear_back(c, k ? &fixed : &masters, batch, out, in, sums_a);
            plain_lfwd_int_linear_back(c, k ? &fixed : &masters, batch, out, in, sums_b);
            if (differ()) return 16;
        }
    }
    return 0;
}
