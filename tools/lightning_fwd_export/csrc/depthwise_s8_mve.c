/* Int8 depthwise convolution on Helium: channels lie side by side in NHWC, so one lane is one channel, four at a time in int32.
 * Four neighbouring pixels inside the image share the weights and, at stride 1, the columns between them. */
#include "depthwise_s8_body.h"
#include "lfwd_requantize.h"
#if LFWD_MVE
#include <string.h>

static inline int32x4_t mac(int32x4_t sum, int32x4_t x, int32x4_t w)
{
    return vaddq_s32(sum, vmulq_s32(x, w));
}

static inline void store(const lfwd_conv2d_s8_params *p, int8_t *out, int32x4_t sum, int32x4_t multiplier, int32x4_t shift,
                         mve_pred16_t valid)
{
    const int32x4_t q = vaddq_n_s32(lfwd_requantize_x4(sum, multiplier, shift), p->output_offset);
    vstrbq_p_s32(out, vminq_s32(vmaxq_s32(q, vdupq_n_s32(p->act_min)), vdupq_n_s32(p->act_max)), valid);
}

/* One pixel. */
static __attribute__((noinline)) void one_pixel(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *zeros,
                                                const int8_t *weight, const int32_t *start, const int32_t *multiplier,
                                                const int32_t *shift, int32_t top, int32_t left, int8_t *output)
{
    const int32_t channels = p->in_c, row = p->dilation_h * p->in_w * channels, step = p->dilation_w * channels;
    const int inside = lfwd_inside(p, top, left);
    const int8_t *const corner = input + (top * p->in_w + left) * channels;
    for (int32_t o = 0; o < channels; o += 4) {
        const mve_pred16_t valid = vctp32q((uint32_t)(channels - o));
        int32x4_t sum = vldrwq_z_s32(start + o, valid);
        const int8_t *w = weight + o;
        if (inside) {
            const int8_t *x = corner + o;
            for (int32_t ky = p->kernel_h; ky > 0; ky--, x += row) {
                const int8_t *pixel = x;
                for (int32_t kx = p->kernel_w; kx > 0; kx--, pixel += step, w += channels)
                    sum = mac(sum, vldrbq_z_s32(pixel, valid), vldrbq_z_s32(w, valid));
            }
        } else {
            for (int32_t ky = 0; ky < p->kernel_h; ky++)
                for (int32_t kx = 0; kx < p->kernel_w; kx++, w += channels)
                    sum = mac(sum, vldrbq_z_s32(lfwd_tap(p, input, zeros, top, left, ky, kx) + o, valid), vldrbq_z_s32(w, valid));
        }
        store(p, output + o, sum, vldrwq_z_s32(multiplier + o, valid), vldrwq_z_s32(shift + o, valid), valid);
    }
}

/* Four pixels side by side, 3x3 at stride 1, undilated, all inside the image. */
static __attribute__((noinline)) void four_pixels(const lfwd_conv2d_s8_params *p, const int8_t *corner, const int8_t *weight,
                                                  const int32_t *start, const int32_t *multiplier, const int32_t *shift,
                                                  int8_t *output)
{
    const int32_t channels = p->in_c, row = p->in_w * channels;
    for (int32_t o = 0; o < channels; o += 4) {
        const mve_pred16_t valid = vctp32q((uint32_t)(channels - o));
        int32x4_t s0 = vldrwq_z_s32(start + o, valid), s1 = s0, s2 = s0, s3 = s0;
        const int8_t *x = corner + o, *w = weight + o;
        for (int32_t ky = 3; ky > 0; ky--, x += row, w += 3 * channels) {
            const int32x4_t w0 = vldrbq_z_s32(w, valid), w1 = vldrbq_z_s32(w + channels, valid);
            const int32x4_t w2 = vldrbq_z_s32(w + 2 * channels, valid);
            const int8_t *pixel = x;
            int32x4_t v = vldrbq_z_s32(pixel, valid);
            s0 = mac(s0, v, w0);
            v = vldrbq_z_s32(pixel += channels, valid);
            s0 = mac(s0, v, w1), s1 = mac(s1, v, w0);
            v = vldrbq_z_s32(pixel += channels, valid);
            s0 = mac(s0, v, w2), s1 = mac(s1, v, w1), s2 = mac(s2, v, w0);
            v = vldrbq_z_s32(pixel += channels, valid);
            s1 = mac(s1, v, w2), s2 = mac(s2, v, w1), s3 = mac(s3, v, w0);
            v = vldrbq_z_s32(pixel += channels, valid);
            s2 = mac(s2, v, w2), s3 = mac(s3, v, w1);
            v = vldrbq_z_s32(pixel += channels, valid);
            s3 = mac(s3, v, w2);
        }
        const int32x4_t m = vldrwq_z_s32(multiplier + o, valid), s = vldrwq_z_s32(shift + o, valid);
        int8_t *out = output + o;
        store(p, out, s0, m, s, valid);
        store(p, out + channels, s1, m, s, valid);
        store(p, out + 2 * channels, s2, m, s, valid);
        store(p, out + 3 * channels, s3, m, s, valid);
    }
}

void lfwd_depthwise_s8_mve(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                           const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output)
{
    int8_t *zeros = scratch;
    const int shared = p->kernel_h == 3 && p->kernel_w == 3 && p->stride_w == 1 && p->dilation_h == 1 && p->dilation_w == 1;
    memset(zeros, (int8_t)-p->input_offset, (size_t)p->in_c);
    for (int32_t y = 0; y < p->out_h; y++) {
        const int32_t top = y * p->stride_h - p->pad_top;
        for (int32_t i = 0; i < p->out_w;) {
            const int32_t left = i - p->pad_left;
            if (shared && i + 4 <= p->out_w && lfwd_inside(p, top, left) && lfwd_inside(p, top, left + 3)) {
                four_pixels(p, input + (top * p->in_w + left) * p->in_c, weight, start, multiplier, shift, output);
                i += 4, output += 4 * p->in_c;
            } else {
                one_pixel(p, input, zeros, weight, start, multiplier, shift, top, i * p->stride_w - p->pad_left, output);
                i++, output += p->in_c;
            }
        }
    }
}
#else
typedef int lfwd_depthwise_s8_mve_not_built; /* ISO C forbids an empty translation unit */
#endif
