/* Int8 convolution with the dual 16-bit multiply-accumulate (SMLAD).
 *
 * Two output pixels at a time are unfolded (im2col) to int16, padding as the zero point; then two filters run over both: 16 MAC per
 * 8 SMLAD. Bytes are expanded in the order 0, 2, 1, 3, which
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

static int32_t put_run(int16_t *columns, int32_t lane, int32_t k, const int8_t *run, int32_t count)
{
    const int32_t end = k + count;
    while (k < end && (k & 3)) columns[slot(k++, lane)] = *run++;
    uint32_t *out = (uint32_t *)(void *)(columns + slot(k, lane));
    for (; k + 4 <= end; k += 4, run += 4, out += 4) {
        const uint32_t word = lfwd_load4(run);
        out[0] = lfwd_even(word);
        out[1] = lfwd_odd(word);
    }
    while (k < end) columns[slot(k++, lane)] = *run++;
    return end;
}

static int32_t put_value(int16_t *columns, int32_t lane, int32_t k, int32_t count, int16_t value)
{
    const int32_t end = k + count;
    const uint32_t pair = ((uint32_t)value & 0xFFFFu) | ((uint32_t)value << 16);
    while (k < end && (k & 3)) columns[slot(k++, lane)] = value;
    uint32_t *out = (uint32_t *)(void *)(columns + slot(k, lane));
    for (; k + 4 <= end; k += 4, out += 4) out[0] = out[1] = pair;
    while (k < end) columns[slot(k++, lane)] = value;
    return end;
}

static void unfold(const lfwd_conv2d_s8_params *p, const int8_t *input, int32_t y, int32_t x, int32_t lane,
                   int16_t *columns)
{
    const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left, c = p->in_c;
    const int32_t from = left < 0 ? -left : 0;
    const int32_t to = left + p->kernel_w > p->in_w ? p->in_w - left : p->kernel_w;
    const int16_t zero_point = (int16_t)-p->input_offset;
    int32_t k = 0;
    for (int32_t ky = 0; ky < p->kernel_h; ky++) {
        const int32_t iy = top + ky;
        if (iy < 0 || iy >= p->in_h || from >= to) {
            k = put_value(columns, lane, k, p->kernel_w * c, zero_point);
            continue;
        }
        if (from) k = put_value(columns, lane, k, from * c, zero_point);
        k = put_run(columns, lane, k, input + (iy * p->in_w + left + from) * c, (to - from) * c);
        if (to < p->kernel_w) k = put_value(columns, lane, k, (p->kernel_w - to) * c, zero_point);
    }
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

void lfwd_conv2d_s8_dsp(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                        const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output)
{
    int16_t *columns = scratch;
    const int32_t filter = p->kernel_h * p->kernel_w * p->in_c, pixels = p->out_h * p->out_w, offset = p->output_offset;
    for (int32_t pixel = 0; pixel < pixels; pixel += 2) {
        const int32_t both = pixel + 1 < pixels; /* an odd last pixel runs twice, stored once */
        const int32_t second = pixel + both;
        unfold(p, input, pixel / p->out_w, pixel % p->out_w, 0, columns);
        unfold(p, input, second / p->out_w, second % p->out_w, 1, columns);
        int8_t *out0 = output + pixel * p->out_c, *out1 = output + second * p->out_c;
        for (int32_t o = 0; o < p->out_c; o += 2) {
            const int32_t o1 = o + 1 < p->out_c ? o + 1 : o;
            int32_t sums[4] = {start[o], start[o], start[o1], start[o1]};
            dot2x2(weight + o * filter, weight + o1 * filter, columns, filter, sums);
            out0[o] = lfwd_requantize_narrow(sums[0], multiplier[o], shift[o], offset);
            out1[o] = lfwd_requantize_narrow(sums[1], multiplier[o], shift[o], offset);
            out0[o1] = lfwd_requantize_narrow(sums[2], multiplier[o1], shift[o1], offset);
            out1[o1] = lfwd_requantize_narrow(sums[3], multiplier[o1], shift[o1], offset);
        }
    }
    lfwd_bound(output, pixels * p->out_c, p->act_min, p->act_max);
}
#else
typedef int lfwd_conv2d_s8_dsp_not_built; /* ISO C forbids an empty translation unit */
#endif
