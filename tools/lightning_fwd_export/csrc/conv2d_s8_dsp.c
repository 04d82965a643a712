/* Int8 convolution with the dual 16-bit multiply-accumulate (SMLAD).
 *
 * Two output pixels at a time are unfolded (im2col) to int16 with the input offset added, so that a padded position is
 * plain zero; then two filters run over both: 16 MAC per 8 SMLAD. Bytes are expanded in the order 0, 2, 1, 3, which
 * SXTB16 gives for free and which costs nothing as long as inputs and weights agree. The two columns are interleaved
 * by groups of four values, so one pointer walks both.
 */
#include "conv2d_s8_body.h"
#include "lfwd_dsp.h"
#include "lfwd_requantize.h"
#if LFWD_DSP

/* Where value k of column `lane` stands: groups of four, each group holding lane 0 then lane 1. */
static inline int32_t slot(int32_t k, int32_t lane)
{
    static const int8_t order[4] = {0, 2, 1, 3};
    return (k >> 2) * 8 + lane * 4 + order[k & 3];
}

static int32_t put_run(int16_t *columns, int32_t lane, int32_t k, const int8_t *run, int32_t count, int32_t offset)
{
    const uint32_t pair = lfwd_offset_pair(offset);
    const int32_t end = k + count;
    while (k < end && (k & 3)) columns[slot(k++, lane)] = (int16_t)(*run++ + offset);
    uint32_t *out = (uint32_t *)(void *)(columns + slot(k, lane));
    for (; k + 4 <= end; k += 4, run += 4, out += 4) {
        const uint32_t word = lfwd_load4(run);
        out[0] = lfwd_even_plus(pair, word);
        out[1] = lfwd_odd_plus(pair, word);
    }
    while (k < end) columns[slot(k++, lane)] = (int16_t)(*run++ + offset);
    return end;
}

static int32_t put_zeros(int16_t *columns, int32_t lane, int32_t k, int32_t count)
{
    const int32_t end = k + count;
    while (k < end && (k & 3)) columns[slot(k++, lane)] = 0;
    uint32_t *out = (uint32_t *)(void *)(columns + slot(k, lane));
    for (; k + 4 <= end; k += 4, out += 4) out[0] = out[1] = 0;
    while (k < end) columns[slot(k++, lane)] = 0;
    return end;
}

static void unfold(const lfwd_conv2d_s8_params *p, const int8_t *input, int32_t y, int32_t x, int32_t lane,
                   int16_t *columns)
{
    const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left, c = p->in_c;
    const int32_t from = left < 0 ? -left : 0;
    const int32_t to = left + p->kernel_w > p->in_w ? p->in_w - left : p->kernel_w;
    int32_t k = 0;
    for (int32_t ky = 0; ky < p->kernel_h; ky++) {
        const int32_t iy = top + ky;
        if (iy < 0 || iy >= p->in_h || from >= to) {
            k = put_zeros(columns, lane, k, p->kernel_w * c);
            continue;
        }
        k = put_zeros(columns, lane, k, from * c);
        k = put_run(columns, lane, k, input + (iy * p->in_w + left + from) * c, (to - from) * c, p->input_offset);
        k = put_zeros(columns, lane, k, (p->kernel_w - to) * c);
    }
    put_zeros(columns, lane, k, (4 - (k & 3)) & 3);
}

/* sums: filter 0 on pixel 0 and 1, filter 1 on pixel 0 and 1. */
static inline void dot2x2(const int8_t *w0, const int8_t *w1, const int16_t *columns, int32_t count, int32_t sums[4])
{
    const uint32_t *x = (const uint32_t *)(const void *)columns;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    const int8_t *const end = w0 + (count & ~3);
    while (w0 != end) {
        const uint32_t a = lfwd_load4(w0), b = lfwd_load4(w1);
        const uint32_t x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
        w0 += 4;
        w1 += 4;
        x += 4;
        const uint32_t a_even = lfwd_even(a), a_odd = lfwd_odd(a);
        s0 = lfwd_smlad(a_even, x0, s0);
        s1 = lfwd_smlad(a_even, x2, s1);
        s0 = lfwd_smlad(a_odd, x1, s0);
        s1 = lfwd_smlad(a_odd, x3, s1);
        const uint32_t b_even = lfwd_even(b), b_odd = lfwd_odd(b);
        s2 = lfwd_smlad(b_even, x0, s2);
        s3 = lfwd_smlad(b_even, x2, s3);
        s2 = lfwd_smlad(b_odd, x1, s2);
        s3 = lfwd_smlad(b_odd, x3, s3);
    }
    columns = (const int16_t *)(const void *)x;
    for (int32_t k = 0; k < (count & 3); k++) {
        const int16_t left = columns[slot(k, 0)], right = columns[slot(k, 1)];
        s0 += w0[k] * left;
        s1 += w0[k] * right;
        s2 += w1[k] * left;
        s3 += w1[k] * right;
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

void lfwd_conv2d_s8_dsp(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *bias,
                        const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output)
{
    int16_t *columns = scratch;
    const int32_t filter = p->kernel_h * p->kernel_w * p->in_c, pixels = p->out_h * p->out_w;
    for (int32_t pixel = 0; pixel < pixels; pixel += 2) {
        const int32_t both = pixel + 1 < pixels; /* an odd last pixel runs twice, stored once */
        const int32_t second = pixel + both;
        unfold(p, input, pixel / p->out_w, pixel % p->out_w, 0, columns);
        unfold(p, input, second / p->out_w, second % p->out_w, 1, columns);
        int8_t *out0 = output + pixel * p->out_c, *out1 = output + second * p->out_c;
        for (int32_t o = 0; o < p->out_c; o += 2) {
            const int32_t o1 = o + 1 < p->out_c ? o + 1 : o;
            int32_t sums[4] = {0, 0, 0, 0};
            if (bias) sums[0] = sums[1] = bias[o], sums[2] = sums[3] = bias[o1];
            dot2x2(weight + o * filter, weight + o1 * filter, columns, filter, sums);
            out0[o] = lfwd_requantize_s8(sums[0], multiplier[o], shift[o], p->output_offset, p->act_min, p->act_max);
            out1[o] = lfwd_requantize_s8(sums[1], multiplier[o], shift[o], p->output_offset, p->act_min, p->act_max);
            out0[o1] = lfwd_requantize_s8(sums[2], multiplier[o1], shift[o1], p->output_offset, p->act_min, p->act_max);
            out1[o1] = lfwd_requantize_s8(sums[3], multiplier[o1], shift[o1], p->output_offset, p->act_min, p->act_max);
        }
    }
}
#else
typedef int lfwd_conv2d_s8_dsp_not_built; /* ISO C forbids an empty translation unit */
#endif
