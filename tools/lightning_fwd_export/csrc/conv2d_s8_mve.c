/* Int8 convolution on Helium: 16 multiply-accumulates per VMLADAVA.
 *
 * Each output pixel is unfolded (im2col) as int8 with padding = the input's zero point; a 1x1 filter reads the image where it
 * lies. Four filters share every load of the column, and their four sums are requantised as one vector, which NHWC stores side
 * by side. sum(w * (x + offset)) = sum(w * x) + offset * sum(w): the second term joins the bias once per image.
 */
#include "conv2d_s8_body.h"
#include "lfwd_requantize.h"
#if LFWD_MVE
#include <string.h>

static inline void copy_run(int8_t *out, const int8_t *in, int32_t count)
{
    for (int32_t block = count >> 4; block > 0; block--, in += 16, out += 16) vstrbq_s8(out, vldrbq_s8(in));
    if (count & 15) {
        const mve_pred16_t valid = vctp8q((uint32_t)(count & 15));
        vstrbq_p_s8(out, vldrbq_z_s8(in, valid), valid);
    }
}

static void unfold(const lfwd_conv2d_s8_params *p, const int8_t *input, int32_t top, int32_t left, int8_t *column)
{
    const int32_t c = p->in_c, row = p->kernel_w * c, image_row = p->in_w * c;
    const int8_t *from = input + top * image_row + left * c;
    if (top >= 0 && left >= 0 && top + p->kernel_h <= p->in_h && left + p->kernel_w <= p->in_w) {
        for (int32_t ky = p->kernel_h; ky > 0; ky--, column += row, from += image_row) copy_run(column, from, row);
        return;
    }
    const int32_t first = left < 0 ? -left : 0;
    const int32_t end = left + p->kernel_w > p->in_w ? p->in_w - left : p->kernel_w;
    memset(column, (int8_t)-p->input_offset, (size_t)(p->kernel_h * row));
    for (int32_t ky = 0; ky < p->kernel_h; ky++, column += row, from += image_row)
        if (top + ky >= 0 && top + ky < p->in_h && first < end)
            copy_run(column + first * c, from + first * c, (end - first) * c);
}

/* Four neighbouring filters on one column. */
static inline int32x4_t dot4(const int8_t *const w[4], const int8_t *x, int32_t count)
{
    const int8_t *w0 = w[0], *w1 = w[1], *w2 = w[2], *w3 = w[3];
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (int32_t block = count >> 4; block > 0; block--) {
        const int8x16_t xv = vldrbq_s8(x);
        s0 = vmladavaq_s8(s0, xv, vldrbq_s8(w0));
        s1 = vmladavaq_s8(s1, xv, vldrbq_s8(w1));
        s2 = vmladavaq_s8(s2, xv, vldrbq_s8(w2));
        s3 = vmladavaq_s8(s3, xv, vldrbq_s8(w3));
        x += 16, w0 += 16, w1 += 16, w2 += 16, w3 += 16;
    }
    if (count & 15) {
        const mve_pred16_t valid = vctp8q((uint32_t)(count & 15));
        const int8x16_t xv = vldrbq_z_s8(x, valid); /* lanes beyond the filter read as zero */
        s0 = vmladavaq_s8(s0, xv, vldrbq_z_s8(w0, valid));
        s1 = vmladavaq_s8(s1, xv, vldrbq_z_s8(w1, valid));
        s2 = vmladavaq_s8(s2, xv, vldrbq_z_s8(w2, valid));
        s3 = vmladavaq_s8(s3, xv, vldrbq_z_s8(w3, valid));
    }
    const int32x4_t sums = {s0, s1, s2, s3};
    return sums;
}

static int32_t sum(const int8_t *values, int32_t count)
{
    int32_t total = 0;
    for (; count > 0; count -= 16, values += 16) total = vaddvaq_s8(total, vldrbq_z_s8(values, vctp8q((uint32_t)count)));
    return total;
}

void lfwd_conv2d_s8_mve(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *bias,
                        const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output)
{
    const int32_t filter = p->kernel_h * p->kernel_w * p->in_c, channels = p->out_c;
    const int direct = p->kernel_h == 1 && p->kernel_w == 1 && p->pad_top == 0 && p->pad_left == 0;
    int32_t *start = scratch;
    int8_t *column = (int8_t *)(start + channels);
    int vector = 1;
    for (int32_t o = 0; o < channels; o++) {
        start[o] = (bias ? bias[o] : 0) + p->input_offset * sum(weight + o * filter, filter);
        vector &= shift[o] <= 0;
    }
    for (int32_t y = 0; y < p->out_h; y++) {
        const int32_t top = y * p->stride_h - p->pad_top;
        for (int32_t i = 0; i < p->out_w; i++, output += channels) {
            const int32_t left = i * p->stride_w - p->pad_left;
            const int8_t *x = direct ? input + (top * p->in_w + left) * p->in_c : column;
            if (!direct) unfold(p, input, top, left, column);
            for (int32_t o = 0; o < channels; o += 4) {
                const int8_t *w[4] = {weight + o * filter};
                const int32_t lanes = channels - o < 4 ? channels - o : 4;
                for (int32_t lane = 1; lane < 4; lane++) w[lane] = lane < lanes ? w[lane - 1] + filter : w[0];
                const mve_pred16_t valid = vctp32q((uint32_t)lanes);
                const int32x4_t sums = vaddq_s32(dot4(w, x, filter), vldrwq_z_s32(start + o, valid));
                if (vector) {
                    const int32x4_t m = vldrwq_z_s32(multiplier + o, valid), s = vldrwq_z_s32(shift + o, valid);
                    int32x4_t q = vaddq_n_s32(lfwd_requantize_x4(sums, m, s), p->output_offset);
                    q = vminq_s32(vmaxq_s32(q, vdupq_n_s32(p->act_min)), vdupq_n_s32(p->act_max));
                    vstrbq_p_s32(output + o, q, valid);
                } else {
                    for (int32_t lane = 0; lane < lanes; lane++)
                        output[o + lane] = lfwd_requantize_s8(sums[lane], multiplier[o + lane], shift[o + lane],
                                                              p->output_offset, p->act_min, p->act_max);
                }
            }
        }
    }
}
#else
typedef int lfwd_conv2d_s8_mve_not_built; /* ISO C forbids an empty translation unit */
#endif
