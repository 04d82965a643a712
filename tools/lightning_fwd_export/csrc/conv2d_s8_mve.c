/* Int8 convolution on Helium: 16 multiply-accumulates per VMLADAVA.
 *
 * Four output pixels at a time are unfolded (im2col) as int8 with padding = the input's zero point; a 1x1 filter reads the image
 * where it lies. Four filters share every load of the column, and their four sums are requantised as one vector, which NHWC stores side
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

/* All output channels of `pixels` columns that lie `step` bytes apart, four filters at a time; the last group stores those that there
 * are. */
static __attribute__((noinline)) void run_pixels(const lfwd_conv2d_s8_params *p, const int8_t *weight, const int32_t *start,
                                                 const int32_t *multiplier, const int32_t *shift, const int8_t *columns,
                                                 int32_t step, int32_t pixels, int8_t *output)
{
    const int32_t filter = p->kernel_h * p->kernel_w * p->in_c, channels = p->out_c, offset = p->output_offset;
    const int32x4_t low = vdupq_n_s32(p->act_min), high = vdupq_n_s32(p->act_max);
    for (int32_t left = channels; left > 0; left -= 4) {
        const int8_t *w1 = left > 1 ? weight + filter : weight, *w2 = left > 2 ? w1 + filter : w1;
        const int8_t *w3 = left > 3 ? w2 + filter : w2, *x = columns;
        const mve_pred16_t valid = vctp32q((uint32_t)left);
        const int32x4_t first = vldrwq_z_s32(start, valid), m = vldrwq_z_s32(multiplier, valid);
        const int32x4_t right = vldrwq_z_s32(shift, valid);
        int8_t *out = output;
        for (int32_t k = pixels; k > 0; k--, x += step, out += channels) {
            const int32x4_t sums = vaddq_s32(lfwd_dot4(weight, w1, w2, w3, x, filter), first);
            const int32x4_t scaled = vaddq_n_s32(lfwd_requantize_x4(sums, m, right), offset);
            vstrbq_p_s32(out, vminq_s32(vmaxq_s32(scaled, low), high), valid);
        }
        weight = w3 + filter;
        start += 4, multiplier += 4, shift += 4, output += 4;
    }
}

void lfwd_conv2d_s8_mve(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                        const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output)
{
    const int32_t filter = p->kernel_h * p->kernel_w * p->in_c, pixels = p->out_h * p->out_w;
    if (filter == p->in_c && p->stride_h == 1 && p->stride_w == 1 && p->out_h == p->in_h && p->out_w == p->in_w && p->pad_top == 0 &&
        p->pad_left == 0) {
        run_pixels(p, weight, start, multiplier, shift, input, filter, pixels, output);
        return;
    }
    int8_t *const columns = scratch;
    for (int32_t pixel = 0, count; pixel < pixels; pixel += count, output += count * p->out_c) {
        count = pixels - pixel < 4 ? pixels - pixel : 4;
        for (int32_t k = 0; k < count; k++) {
            const int32_t y = (pixel + k) / p->out_w, x = (pixel + k) % p->out_w;
            unfold(p, input, y * p->stride_h - p->pad_top, x * p->stride_w - p->pad_left, columns + k * filter);
        }
        run_pixels(p, weight, start, multiplier, shift, columns, filter, count, output);
    }
}
#else
typedef int lfwd_conv2d_s8_mve_not_built; /* ISO C forbids an empty translation unit */
#endif
