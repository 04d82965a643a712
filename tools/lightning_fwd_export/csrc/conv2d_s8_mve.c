/* Int8 convolution on Helium: 16 multiply-accumulates per VMLADAVA.
 *
 * Four output pixels are unfolded (im2col) as int8 with padding = the input's zero point; a 1x1 filter reads the image
 * where it lies. One filter then runs over the four columns. sum(w * (x + offset)) = sum(w * x) + offset * sum(w), so
 * the offset costs one more reduction for the four.
 */
#include "conv2d_s8_body.h"
#include "lfwd_requantize.h"
#if LFWD_MVE
#include <string.h>

static void unfold(const lfwd_conv2d_s8_params *p, const int8_t *input, int32_t y, int32_t x, int8_t *column)
{
    const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left, c = p->in_c;
    const int32_t from = left < 0 ? -left : 0;
    const int32_t to = left + p->kernel_w > p->in_w ? p->in_w - left : p->kernel_w;
    const size_t row = (size_t)(p->kernel_w * c);
    for (int32_t ky = 0; ky < p->kernel_h; ky++, column += row) {
        const int32_t iy = top + ky;
        if (iy < 0 || iy >= p->in_h || from >= to) {
            memset(column, (int8_t)-p->input_offset, row);
            continue;
        }
        if (from > 0 || to < p->kernel_w) memset(column, (int8_t)-p->input_offset, row);
        const int8_t *run = input + (iy * p->in_w + left + from) * c;
        int8_t *out = column + from * c;
        for (int32_t n = (to - from) * c; n > 0; n -= 16, run += 16, out += 16) {
            const mve_pred16_t valid = vctp8q((uint32_t)n);
            vstrbq_p_s8(out, vldrbq_z_s8(run, valid), valid);
        }
    }
}

static inline int32x4_t dot4(const int8_t *w, const int8_t *const x[4], int32_t count, int32_t start, int32_t offset)
{
    const int8_t *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    int32_t s0 = start, s1 = start, s2 = start, s3 = start, weights = 0;
    for (int32_t block = count >> 4; block > 0; block--) {
        const int8x16_t wv = vldrbq_s8(w);
        weights = vaddvaq_s8(weights, wv);
        s0 = vmladavaq_s8(s0, wv, vldrbq_s8(x0));
        s1 = vmladavaq_s8(s1, wv, vldrbq_s8(x1));
        s2 = vmladavaq_s8(s2, wv, vldrbq_s8(x2));
        s3 = vmladavaq_s8(s3, wv, vldrbq_s8(x3));
        w += 16, x0 += 16, x1 += 16, x2 += 16, x3 += 16;
    }
    if (count & 15) {
        const mve_pred16_t valid = vctp8q((uint32_t)(count & 15));
        const int8x16_t wv = vldrbq_z_s8(w, valid); /* lanes beyond the filter read as zero */
        weights = vaddvaq_s8(weights, wv);
        s0 = vmladavaq_s8(s0, wv, vldrbq_z_s8(x0, valid));
        s1 = vmladavaq_s8(s1, wv, vldrbq_z_s8(x1, valid));
        s2 = vmladavaq_s8(s2, wv, vldrbq_z_s8(x2, valid));
        s3 = vmladavaq_s8(s3, wv, vldrbq_z_s8(x3, valid));
    }
    const int32x4_t sums = {s0, s1, s2, s3};
    return vaddq_n_s32(sums, weights * offset);
}

void lfwd_conv2d_s8_mve(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *bias,
                        const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output)
{
    const int32_t filter = p->kernel_h * p->kernel_w * p->in_c, pixels = p->out_h * p->out_w;
    const int direct = p->kernel_h == 1 && p->kernel_w == 1 && p->pad_top == 0 && p->pad_left == 0;
    for (int32_t pixel = 0; pixel < pixels; pixel += 4) {
        const int32_t lanes = pixels - pixel < 4 ? pixels - pixel : 4;
        const int8_t *columns[4];
        for (int32_t lane = 0; lane < 4; lane++) {
            const int32_t at = pixel + (lane < lanes ? lane : 0), y = at / p->out_w, x = at % p->out_w;
            if (direct) {
                columns[lane] = input + (y * p->stride_h * p->in_w + x * p->stride_w) * p->in_c;
            } else {
                int8_t *column = (int8_t *)scratch + lane * filter;
                if (lane < lanes) unfold(p, input, y, x, column);
                columns[lane] = lane < lanes ? column : columns[0];
            }
        }
        int8_t *out = output + pixel * p->out_c;
        const uint32x4_t where = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)p->out_c);
        const mve_pred16_t stored = vctp32q((uint32_t)lanes);
        for (int32_t o = 0; o < p->out_c; o++) {
            const int32x4_t sums = dot4(weight + o * filter, columns, filter, bias ? bias[o] : 0, p->input_offset);
            if (shift[o] <= 0) {
                int32x4_t q = lfwd_requantize_x4(sums, vdupq_n_s32(multiplier[o]), vdupq_n_s32(shift[o]));
                q = vaddq_n_s32(q, p->output_offset);
                q = vminq_s32(vmaxq_s32(q, vdupq_n_s32(p->act_min)), vdupq_n_s32(p->act_max));
                vstrbq_scatter_offset_p_s32(out + o, where, q, stored);
            } else {
                for (int32_t lane = 0; lane < lanes; lane++)
                    out[lane * p->out_c + o] = lfwd_requantize_s8(sums[lane], multiplier[o], shift[o], p->output_offset,
                                                                  p->act_min, p->act_max);
            }
        }
    }
}
#else
typedef int lfwd_conv2d_s8_mve_not_built; /* ISO C forbids an empty translation unit */
#endif
