/* Int8 convolution: plain C, and the choice between it and the DSP and Helium bodies. */
#include "conv2d_s8_body.h"
#include "lfwd_requantize.h"

static void conv2d_plain(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight,
                         const int32_t *start, const int32_t *multiplier, const int32_t *shift, int8_t *output)
{
    const int32_t out_per_group = p->out_c / (p->in_c / p->kernel_c);
    const int32_t filter = p->kernel_h * p->kernel_w * p->kernel_c;
    for (int32_t y = 0; y < p->out_h; y++) {
        for (int32_t x = 0; x < p->out_w; x++) {
            const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
            for (int32_t o = 0; o < p->out_c; o++) {
                const int32_t first = o / out_per_group * p->kernel_c;
                const int8_t *tap = weight + o * filter;
                int32_t sum = start[o];
                for (int32_t ky = 0; ky < p->kernel_h; ky++) {
                    const int32_t iy = top + ky * p->dilation_h;
                    for (int32_t kx = 0; kx < p->kernel_w; kx++, tap += p->kernel_c) {
                        const int32_t ix = left + kx * p->dilation_w;
                        if (iy < 0 || iy >= p->in_h || ix < 0 || ix >= p->in_w) {
                            for (int32_t c = 0; c < p->kernel_c; c++) sum -= tap[c] * p->input_offset;
                            continue;
                        }
                        const int8_t *pixel = input + (iy * p->in_w + ix) * p->in_c + first;
                        for (int32_t c = 0; c < p->kernel_c; c++) sum += tap[c] * pixel[c];
                    }
                }
                *output++ = lfwd_requantize_s8(sum, multiplier[o], shift[o], p->output_offset, p->act_min, p->act_max);
            }
        }
    }
}

void lfwd_conv2d_s8(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                    const int32_t *multiplier, const int32_t *shift, void *scratch, int32_t scratch_bytes,
                    int8_t *output)
{
    const int32_t in_image = p->in_h * p->in_w * p->in_c, out_image = p->out_h * p->out_w * p->out_c;
    const int fast = (LFWD_DSP || LFWD_MVE) && p->narrow && p->kernel_c == p->in_c && p->dilation_h == 1 && p->dilation_w == 1 &&
                     scratch_bytes >= LFWD_CONV2D_S8_SCRATCH(p->kernel_h, p->kernel_w, p->in_c);
    for (int32_t n = 0; n < p->batch; n++, input += in_image, output += out_image) {
        if (fast) {
#if LFWD_MVE
            lfwd_conv2d_s8_mve(p, input, weight, start, multiplier, shift, scratch, output);
#elif LFWD_DSP
            lfwd_conv2d_s8_dsp(p, input, weight, start, multiplier, shift, scratch, output);
#endif
        } else {
            conv2d_plain(p, input, weight, start, multiplier, shift, output);
        }
    }
    (void)scratch;
}
