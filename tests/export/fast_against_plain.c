/* Every int8 kernel with a fast body against its plain one (built under the names plain_*) on drawn shapes; the exit code is the kernel
 * that differs, 0 if none does. SHAPES shapes from SEED on. */
#include <string.h>

#include "board.h"
#include "lfwd_int8.h"

void plain_lfwd_conv2d_s8(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                          const int32_t *multiplier, const int32_t *shift, void *scratch, int32_t scratch_bytes, int8_t *output);
void plain_lfwd_depthwise_conv2d_s8(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight,
                                    const int32_t *start, const int32_t *multiplier, const int32_t *shift, void *scratch,
                                    int32_t scratch_bytes, int8_t *output);
void plain_lfwd_linear_s8(const lfwd_linear_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                          int8_t *output);
void plain_lfwd_avg_pool2d_s8(const lfwd_pool_s8_params *p, const int8_t *input, int8_t *output);
void plain_lfwd_add_s8(const lfwd_add_s8_params *p, const int8_t *a, const int8_t *b, int32_t count, int8_t *out);

void board_init(void) {}

static uint32_t seed = SEED;
static int32_t draw(int32_t low, int32_t high)
{
    seed = seed * 1664525u + 1013904223u;
    return low + (int32_t)((seed >> 8) % (uint32_t)(high - low + 1));
}

enum { ROOM = 24 * 1024 };
static int8_t x[ROOM], w[ROOM], a[ROOM], b[ROOM];
static int32_t start[64], multiplier[64], shift[64];
static uint8_t scratch[ROOM] __attribute__((aligned(16)));

static int differ(int32_t count)
{
    for (int32_t k = 0; k < 32; k++)
        if (a[count + k] != 77 || b[count + k] != 77) return 1; /* wrote beyond its output */
    return memcmp(a, b, (size_t)count) != 0;
}

int main(void)
{
    for (int32_t k = 0; k < ROOM; k++) x[k] = (int8_t)draw(-128, 127), w[k] = (int8_t)draw(-128, 127);
    for (int n = 0; n < SHAPES; n++) {
        for (int o = 0; o < 64; o++) {
            start[o] = draw(-900000, 900000);
            multiplier[o] = draw(1 << 30, 0x7FFFFFFF);
            shift[o] = draw(-12, draw(0, 9) ? -6 : 0);
        }
        memset(a, 77, sizeof a), memset(b, 77, sizeof b);
        const int32_t usual = draw(0, 1); /* half of the filters are 3x3 at stride 1 */
        lfwd_conv2d_s8_params p = {draw(1, 2), draw(1, 9), draw(1, 9), draw(1, 21), 0, 0, draw(1, 19), 3, 3, 0, 1, 1, 0, 0, 1, 1,
                                   draw(-127, 128), draw(-20, 20), draw(0, 2) ? -128 : -50, draw(0, 2) ? 127 : 60, draw(0, 9) > 0};
        if (!usual) {
            p.kernel_h = draw(1, 5), p.kernel_w = draw(1, 4), p.stride_h = draw(1, 3), p.stride_w = draw(1, 3);
            p.dilation_h = draw(1, 2), p.dilation_w = draw(1, 2);
        }
        p.pad_top = draw(0, 2), p.pad_left = draw(0, 2), p.kernel_c = p.in_c;
        const int32_t h = p.in_h + p.pad_top + draw(0, 2) - p.dilation_h * (p.kernel_h - 1) - 1;
        const int32_t v = p.in_w + p.pad_left + draw(0, 2) - p.dilation_w * (p.kernel_w - 1) - 1;
        if (h >= 0 && v >= 0) {
            p.out_h = h / p.stride_h + 1, p.out_w = v / p.stride_w + 1;
            lfwd_conv2d_s8(&p, x, w, start, multiplier, shift, scratch, sizeof scratch, a);
            plain_lfwd_conv2d_s8(&p, x, w, start, multiplier, shift, 0, 0, b);
            if (differ(p.batch * p.out_h * p.out_w * p.out_c)) return 11;
            memset(a, 77, sizeof a), memset(b, 77, sizeof b);
            p.out_c = p.in_c, p.kernel_c = 1;
            lfwd_depthwise_conv2d_s8(&p, x, w, start, multiplier, shift, scratch, sizeof scratch, a);
            plain_lfwd_depthwise_conv2d_s8(&p, x, w, start, multiplier, shift, 0, 0, b);
            if (differ(p.batch * p.out_h * p.out_w * p.out_c)) return 12;
            memset(a, 77, sizeof a), memset(b, 77, sizeof b);
        }
        const lfwd_linear_s8_params f = {draw(1, 2), draw(1, 70), draw(1, 19), draw(0, 5) ? 0 : draw(-3, 3), draw(-20, 20),
                                         multiplier[0], shift[0], p.act_min, p.act_max, p.narrow};
        lfwd_linear_s8(&f, x, w, start, a);
        plain_lfwd_linear_s8(&f, x, w, start, b);
        if (differ(f.rows * f.out_features)) return 13;
        memset(a, 77, sizeof a), memset(b, 77, sizeof b);
        const int32_t k_h = draw(1, p.in_h), k_w = draw(1, p.in_w);
        const lfwd_pool_s8_params q = {1, p.in_h, p.in_w, p.in_c, p.in_h - k_h + 1, p.in_w - k_w + 1, k_h, k_w, 1, 1, k_h / 2, k_w / 2,
                                       p.act_min, p.act_max};
        lfwd_avg_pool2d_s8(&q, x, a);
        plain_lfwd_avg_pool2d_s8(&q, x, b);
        if (differ(q.out_h * q.out_w * q.channels)) return 14;
        memset(a, 77, sizeof a), memset(b, 77, sizeof b);
        const lfwd_add_s8_params s = {draw(-20, 20), multiplier[1], draw(-6, 0), draw(-20, 20), multiplier[2], draw(-6, 0),
                                      draw(-20, 20), multiplier[3], -19, p.act_min, p.act_max};
        const int32_t count = draw(1, 90);
        lfwd_add_s8(&s, x, w, count, a);
        plain_lfwd_add_s8(&s, x, w, count, b);
        if (differ(count)) return 15;
    }
    return 0;
}
