/* Int8 depthwise convolution, weight (kernel_h, kernel_w, out_c). Channels lie side by side in NHWC, so with a depth
 * multiplier of one the fast bodies take four channels at a time through every tap. */
#include "lfwd_dsp.h"
#include "lfwd_requantize.h"

static int8_t finish(const lfwd_conv2d_s8_params *p, int32_t sum, const int32_t *multiplier, const int32_t *shift,
                     int32_t o)
{
    return lfwd_requantize_s8(sum, multiplier[o], shift[o], p->output_offset, p->act_min, p->act_max);
}

/* Taps [y0, y1) x [x0, x1) of the filter lie inside the image. */
typedef struct {
    int32_t top, left, y0, y1, x0, x1;
} window;

static int32_t first_tap(int32_t origin, int32_t dilation)
{
    return origin < 0 ? (-origin + dilation - 1) / dilation : 0;
}

static int32_t end_tap(int32_t origin, int32_t dilation, int32_t kernel, int32_t size)
{
    const int32_t end = (size - origin + dilation - 1) / dilation;
    return end < 0 ? 0 : end < kernel ? end : kernel;
}

static int32_t one_channel(const lfwd_conv2d_s8_params *p, const window *w, const int8_t *input, const int8_t *weight,
                           int32_t o, int32_t sum)
{
    const int32_t c = o / (p->out_c / p->in_c);
    for (int32_t ky = w->y0; ky < w->y1; ky++)
        for (int32_t kx = w->x0; kx < w->x1; kx++) {
            const int32_t iy = w->top + ky * p->dilation_h, ix = w->left + kx * p->dilation_w;
            sum += weight[(ky * p->kernel_w + kx) * p->out_c + o] *
                   (input[(iy * p->in_w + ix) * p->in_c + c] + p->input_offset);
        }
    return sum;
}

#if LFWD_DSP || LFWD_MVE
static void four_channels(const lfwd_conv2d_s8_params *p, const window *w, const int8_t *input, const int8_t *weight,
                          int32_t o, int32_t sums[4])
{
#if LFWD_MVE
    int32x4_t total = vld1q_s32(sums);
#else
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    const uint32_t offsets = lfwd_offset_pair(p->input_offset);
#endif
    const int32_t step = p->dilation_w * p->in_c;
    for (int32_t ky = w->y0; ky < w->y1; ky++) {
        const int8_t *x = input + ((w->top + ky * p->dilation_h) * p->in_w + w->left + w->x0 * p->dilation_w) * p->in_c + o;
        const int8_t *tap = weight + (ky * p->kernel_w + w->x0) * p->out_c + o;
        for (int32_t kx = w->x0; kx < w->x1; kx++, x += step, tap += p->out_c) {
#if LFWD_MVE
            total = vaddq_s32(total, vmulq_s32(vldrbq_s32(tap), vaddq_n_s32(vldrbq_s32(x), p->input_offset)));
#else
            const uint32_t xs = lfwd_load4(x), ws = lfwd_load4(tap);
            const uint32_t x_even = lfwd_even_plus(offsets, xs), x_odd = lfwd_odd_plus(offsets, xs);
            const uint32_t w_even = lfwd_even(ws), w_odd = lfwd_odd(ws);
            s0 += (int16_t)x_even * (int16_t)w_even; /* SMLABB */
            s2 += ((int32_t)x_even >> 16) * ((int32_t)w_even >> 16); /* SMLATT */
            s1 += (int16_t)x_odd * (int16_t)w_odd;
            s3 += ((int32_t)x_odd >> 16) * ((int32_t)w_odd >> 16);
#endif
        }
    }
#if LFWD_MVE
    vst1q_s32(sums, total);
#else
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
#endif
}
#endif

void lfwd_depthwise_conv2d_s8(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight,
                              const int32_t *bias, const int32_t *multiplier, const int32_t *shift, int8_t *output)
{
    for (int32_t n = 0; n < p->batch; n++, input += p->in_h * p->in_w * p->in_c) {
        for (int32_t y = 0; y < p->out_h; y++) {
            for (int32_t x = 0; x < p->out_w; x++, output += p->out_c) {
                const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
                const window w = {top,
                                  left,
                                  first_tap(top, p->dilation_h),
                                  end_tap(top, p->dilation_h, p->kernel_h, p->in_h),
                                  first_tap(left, p->dilation_w),
                                  end_tap(left, p->dilation_w, p->kernel_w, p->in_w)};
                int32_t o = 0;
#if LFWD_DSP || LFWD_MVE
                for (; p->out_c == p->in_c && o + 4 <= p->out_c; o += 4) {
                    int32_t sums[4] = {0, 0, 0, 0};
                    if (bias) memcpy(sums, bias + o, sizeof sums);
                    four_channels(p, &w, input, weight, o, sums);
                    for (int32_t i = 0; i < 4; i++) output[o + i] = finish(p, sums[i], multiplier, shift, o + i);
                }
#endif
                for (; o < p->out_c; o++)
                    output[o] = finish(p, one_channel(p, &w, input, weight, o, bias ? bias[o] : 0), multiplier, shift, o);
            }
        }
    }
}
