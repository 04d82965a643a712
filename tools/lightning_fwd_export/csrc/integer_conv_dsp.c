/* Sums of a convolution in integers with the dual 16-bit multiply-accumulate (SMLAD): masters, whose high bytes are read two at a time, or
 * int8 weights.
 *
 * Two output pixels at a time are unfolded to int16, interleaved by groups of four values; then two filters run over both. The order
 * within a group is that in which four weights come out of their words: 0, 1, 2, 3 of masters, 0, 2, 1, 3 of bytes.
 */
#include "lfwd_dsp.h"
#include "lfwd_integer_body.h"
#if LFWD_DSP

/* What a pixel's window holds, bytes in the order of the weights; beyond the image zeros. */
static void gather(const int8_t *x, const lfwd_int_conv_shape *s, int32_t pixel, int8_t *window)
{
    const int32_t top = pixel / s->out_w * s->stride_h - s->pad_h, left = pixel % s->out_w * s->stride_w - s->pad_w;
    const int32_t whole = left >= 0 && left + (s->k_w - 1) * s->dil_w < s->in_w, plane = s->in_h * s->in_w;
    if (whole && s->k_h == 3 && s->k_w == 3 && s->dil_w == 1 && s->dil_h == 1 && top >= 0 && top + 2 < s->in_h) {
        x += top * s->in_w + left;
        for (int32_t c = s->in_c; c > 0; c--, x += plane, window += 9) {
            const int8_t *b = x + s->in_w, *d = b + s->in_w;
            window[0] = x[0], window[1] = x[1], window[2] = x[2];
            window[3] = b[0], window[4] = b[1], window[5] = b[2];
            window[6] = d[0], window[7] = d[1], window[8] = d[2];
        }
        return;
    }
    for (int32_t c = 0; c < s->in_c; c++, x += plane)
        for (int32_t k = 0; k < s->k_h; k++) {
            const int32_t h = top + k * s->dil_h;
            const int8_t *row = x + h * s->in_w;
            const int inside = h >= 0 && h < s->in_h;
            for (int32_t l = 0; l < s->k_w; l++) {
                const int32_t v = left + l * s->dil_w;
                *window++ = inside && v >= 0 && v < s->in_w ? row[v] : (int8_t)0;
            }
        }
}

/* A window of groups of four bytes into its lane of the columns. */
static void widen(const int8_t *window, int32_t groups, int masters, uint32_t *lane)
{
    for (; groups > 0; groups--, window += 4, lane += 4) {
        const uint32_t word = lfwd_load4(window), even = lfwd_even(word), odd = lfwd_odd(word);
        uint32_t low = even, high = odd;
        if (masters) {
            __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(low) : "r"(even), "r"(odd));
            __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(high) : "r"(odd), "r"(even));
        }
        lane[0] = low, lane[1] = high;
    }
}

static inline uint32_t views(const int16_t *two) /* the high bytes of two masters */
{
    uint32_t word;
    memcpy(&word, two, sizeof word);
    return lfwd_odd(word);
}

/* sums: filter 0 on pixel 0 and 1, filter 1 on pixel 0 and 1. */
#define ACCUMULATE(a0, a1, b0, b1)                                     \
    {                                                                  \
        const uint32_t x0 = x[0], x1 = x[1], y0 = x[2], y1 = x[3];     \
        const uint32_t u0 = a0, u1 = a1;                               \
        s0 = lfwd_smlad(u0, x0, s0), s1 = lfwd_smlad(u0, y0, s1);      \
        s0 = lfwd_smlad(u1, x1, s0), s1 = lfwd_smlad(u1, y1, s1);      \
        const uint32_t v0 = b0, v1 = b1;                               \
        s2 = lfwd_smlad(v0, x0, s2), s3 = lfwd_smlad(v0, y0, s3);      \
        s2 = lfwd_smlad(v1, x1, s2), s3 = lfwd_smlad(v1, y1, s3);      \
    }

static void dot_masters(const int16_t *a, const int16_t *b, const uint32_t *x, int32_t groups, int32_t sums[4])
{
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (const int16_t *const end = a + 4 * groups; a != end; a += 4, b += 4, x += 4)
        ACCUMULATE(views(a), views(a + 2), views(b), views(b + 2))
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

static void dot_bytes(const int8_t *a, const int8_t *b, const uint32_t *x, int32_t groups, int32_t sums[4])
{
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (const int8_t *const end = a + 4 * groups; a != end; a += 4, b += 4, x += 4) {
        const uint32_t p = lfwd_load4(a), q = lfwd_load4(b);
        ACCUMULATE(lfwd_even(p), lfwd_odd(p), lfwd_even(q), lfwd_odd(q))
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

void lfwd_int_conv_pairs(const int8_t *x, const lfwd_int_weight *w, const lfwd_int_conv_shape *s, void *scratch, int32_t *acc)
{
    const int32_t values = s->in_c * s->k_h * s->k_w, groups = values >> 2, pixels = s->out_h * s->out_w;
    uint32_t *const columns = scratch;
    int8_t *const windows[2] = {(int8_t *)(columns + 4 * groups), (int8_t *)(columns + 4 * groups) + values};
    for (int32_t pixel = 0; pixel < pixels; pixel += 2) {
        const int32_t second = pixel + 1 < pixels ? pixel + 1 : pixel; /* an odd last pixel runs twice */
        gather(x, s, pixel, windows[0]);
        gather(x, s, second, windows[1]);
        widen(windows[0], groups, w->masters != 0, columns);
        widen(windows[1], groups, w->masters != 0, columns + 2);
        for (int32_t o = 0; o < s->out_c; o += 2) {
            const int32_t first = o * values, other = o + 1 < s->out_c ? first + values : first;
            int32_t sums[4];
            if (w->masters)
                dot_masters(w->masters + first, w->masters + other, columns, groups, sums);
            else
                dot_bytes(w->frozen + first, w->frozen + other, columns, groups, sums);
            for (int32_t k = groups << 2; k < values; k++) {
                const int32_t a = lfwd_int_view(w, first + k), b = lfwd_int_view(w, other + k);
                sums[0] += a * windows[0][k], sums[1] += a * windows[1][k];
                sums[2] += b * windows[0][k], sums[3] += b * windows[1][k];
            }
            int32_t *const to = acc + o * pixels;
            to[pixel] = sums[0], to[second] = sums[1];
            if (o + 1 < s->out_c) to[pixels + pixel] = sums[2], to[pixels + second] = sums[3];
        }
    }
}
#else
typedef int lfwd_integer_conv_dsp_not_built; /* ISO C forbids an empty translation unit */
#endif
