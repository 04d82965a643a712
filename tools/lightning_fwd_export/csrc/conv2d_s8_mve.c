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

/* All output channels of one pixel, four at a time; the last group stores those that there are. */
static __attribute__((noinline)) void one_pixel(const lfwd_conv2d_s8_params *p, const int8_t *weight, const int32_t *start,
                                                const int32_t *multiplier, const int32_t *shift, const int8_t *x,
                                                int32_t filter, int8_t *output)
{
    const int32x4_t low = vdupq_n_s32(p->act_min), high = vdupq_n_s32(p->act_max);
    const int32_t offset = p->output_offset;
    for (int32_t left = p->out_c; left > 0; left -= 4) {
        const int8_t *w1 = left > 1 ? weight + filter : weight, *w2 = left > 2 ? w1 + filter : w1;
        const int8_t *w3 = left > 3 ? w2 + filter : w2;
        const mve_pred16_t valid = vctp32q((uint32_t)left);
        const int32x4_t sums = vaddq_s32(lfwd_dot4(weight, w1, w2, w3, x, filter), vldrwq_z_s32(start, valid));
        const int32x4_t scaled = lfwd_requantize_x4(sums, vldrwq_z_s32(multiplier, valid), vldrwq_z_s32(shift, valid));
        vstrbq_p_s32(output, vminq_s32(vmaxq_s32(vaddq_n_s32(scaled, offset), low), high), valid);
        weight = w3 + filter;
        start += 4, multiplier += 4, shift += 4, output += 4;
    }
}

void lfwd_conv2d_s8_mve(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                        const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output)
{
    const int32_t filter = p->kernel_h * p->kernel_w * p->in_c;
    const int direct = p->kernel_h == 1 && p->kernel_w == 1 && p->pad_top == 0 && p->pad_left == 0 &&
                       (p->out_h - 1) * p->stride_h < p->in_h && (p->out_w - 1) * p->stride_w < p->in_w;
    int8_t *column = scratch;
    for (int32_t y = 0; y < p->out_h; y++) {
        const int32_t top = y * p->stride_h - p->pad_top;
        for (int32_t i = 0; i < p->out_w; i++, output += p->out_c) {
            const int32_t left = i * p->stride_w - p->pad_left;
            const int8_t *x = direct ? input + (top * p->in_w + left) * p->in_c : column;
            if (!direct) unfold(p, input, top, left, column);
            one_pixel(p, weight, start, multiplier, shift, x, filter, output);
        }
    }
}
#else
typedef int lfwd_conv2d_s8_mve_not_built; /* ISO C forbids an empty translation unit */
#endif
