/* Int8 depthwise convolution with DSP instructions: channels lie side by side in NHWC, so every tap serves four at once, by two
 * loads, four expansions and four multiply-accumulates of halfwords. */
#include "depthwise_s8_body.h"
#include "lfwd_dsp.h"
#if LFWD_DSP

typedef struct {
    int32_t s0, s1, s2, s3;
} sums;

static inline __attribute__((always_inline)) void add_tap(sums *s, const int8_t *x, const int8_t *w)
{
    const uint32_t xs = lfwd_load4(x), ws = lfwd_load4(w);
    const uint32_t x_even = lfwd_even(xs), w_even = lfwd_even(ws), x_odd = lfwd_odd(xs), w_odd = lfwd_odd(ws);
    s->s0 = lfwd_smlabb(x_even, w_even, s->s0);
    s->s2 = lfwd_smlatt(x_even, w_even, s->s2);
    s->s1 = lfwd_smlabb(x_odd, w_odd, s->s1);
    s->s3 = lfwd_smlatt(x_odd, w_odd, s->s3);
}

/* All taps of four channels of a window inside the image; `row` and `step` lead to the next row and column of taps. */
static inline __attribute__((always_inline)) void add_window(sums *s, const int8_t *x, const int8_t *w, int32_t kernel_h,
                                                             int32_t kernel_w, int32_t row, int32_t step, int32_t channels)
{
    for (; kernel_h > 0; kernel_h--, x += row) {
        if (kernel_w == 3) {
            add_tap(s, x, w);
            add_tap(s, x + step, w + channels);
            add_tap(s, x + 2 * step, w + 2 * channels);
            w += 3 * channels;
        } else {
            const int8_t *pixel = x;
            for (int32_t k = kernel_w; k > 0; k--, pixel += step, w += channels) add_tap(s, pixel, w);
        }
    }
}

static int32_t one_channel(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *zeros, const int8_t *weight,
                           int32_t top, int32_t left, int32_t o, int32_t sum)
{
    for (int32_t ky = 0; ky < p->kernel_h; ky++)
        for (int32_t kx = 0; kx < p->kernel_w; kx++)
            sum += weight[(ky * p->kernel_w + kx) * p->in_c + o] * lfwd_tap(p, input, zeros, top, left, ky, kx)[o];
    return sum;
}

void lfwd_depthwise_s8_dsp(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                           const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output)
{
    const int32_t channels = p->in_c, fours = channels & ~3, offset = p->output_offset;
    const int32_t row = p->dilation_h * p->in_w * channels, step = p->dilation_w * channels;
    int8_t *const first = output, *zeros = scratch;
    memset(zeros, (int8_t)-p->input_offset, (size_t)channels);
    for (int32_t y = 0; y < p->out_h; y++)
        for (int32_t i = 0; i < p->out_w; i++, output += channels) {
            const int32_t top = y * p->stride_h - p->pad_top, left = i * p->stride_w - p->pad_left;
            const int inside = lfwd_inside(p, top, left);
            int32_t o = 0;
            for (; o < fours; o += 4) {
                sums s = {start[o], start[o + 1], start[o + 2], start[o + 3]};
                if (inside) {
                    const int8_t *x = input + (top * p->in_w + left) * channels + o;
                    add_window(&s, x, weight + o, p->kernel_h, p->kernel_w, row, step, channels);
                } else {
                    const int8_t *w = weight + o;
                    for (int32_t ky = 0; ky < p->kernel_h; ky++)
                        for (int32_t kx = 0; kx < p->kernel_w; kx++, w += channels)
                            add_tap(&s, lfwd_tap(p, input, zeros, top, left, ky, kx) + o, w);
                }
                output[o] = lfwd_requantize_narrow(s.s0, multiplier[o], shift[o], offset);
                output[o + 1] = lfwd_requantize_narrow(s.s1, multiplier[o + 1], shift[o + 1], offset);
                output[o + 2] = lfwd_requantize_narrow(s.s2, multiplier[o + 2], shift[o + 2], offset);
                output[o + 3] = lfwd_requantize_narrow(s.s3, multiplier[o + 3], shift[o + 3], offset);
            }
            for (; o < channels; o++)
                output[o] = lfwd_requantize_narrow(one_channel(p, input, zeros, weight, top, left, o, start[o]), multiplier[o],
                                                   shift[o], offset);
        }
    lfwd_bound(first, p->out_h * p->out_w * channels, p->act_min, p->act_max);
}
#else
typedef int lfwd_depthwise_s8_dsp_not_built; /* ISO C forbids an empty translation unit */
#endif
