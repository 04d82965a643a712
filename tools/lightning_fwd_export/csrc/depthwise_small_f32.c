/* Float depthwise convolution of 3 x 3 around each pixel of images of at most 3 x 3, and its gradients: the plane, the taps and the sums stay
 * in registers. One function serves all three, since each is a correlation of two planes of 3 x 3 around the middle. */
#include "lfwd_depthwise.h"

typedef struct {
    float at[9];
} nine;

/* y(i, j) = start + the sum over (k, l) of w(k, l) x(i + k - 1, j + l - 1) */
static LFWD_INLINE nine around(const nine *x, const nine *w, float start)
{
    const float x0 = x->at[0], x1 = x->at[1], x2 = x->at[2], x3 = x->at[3], x4 = x->at[4], x5 = x->at[5], x6 = x->at[6], x7 = x->at[7];
    const float w0 = w->at[0], w1 = w->at[1], w2 = w->at[2], w3 = w->at[3], w4 = w->at[4], w5 = w->at[5], w6 = w->at[6], w7 = w->at[7];
    const float x8 = x->at[8], w8 = w->at[8];
    const nine y = {{start + w4 * x0 + w5 * x1 + w7 * x3 + w8 * x4,
                     start + w3 * x0 + w4 * x1 + w5 * x2 + w6 * x3 + w7 * x4 + w8 * x5,
                     start + w3 * x1 + w4 * x2 + w6 * x4 + w7 * x5,
                     start + w1 * x0 + w2 * x1 + w4 * x3 + w5 * x4 + w7 * x6 + w8 * x7,
                     start + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3 + w4 * x4 + w5 * x5 + w6 * x6 + w7 * x7 + w8 * x8,
                     start + w0 * x1 + w1 * x2 + w3 * x4 + w4 * x5 + w6 * x7 + w7 * x8,
                     start + w1 * x3 + w2 * x4 + w4 * x6 + w5 * x7,
                     start + w0 * x3 + w1 * x4 + w2 * x5 + w3 * x6 + w4 * x7 + w5 * x8,
                     start + w0 * x4 + w1 * x5 + w3 * x7 + w4 * x8}};
    return y;
}

/* A plane of `h` by `w` at the top left of one of 3 x 3 zeros, and back. */
static nine widened(const float *plane, int32_t h, int32_t w)
{
    nine x = {{0.0f}};
    for (int32_t i = 0; i < h; i++)
        for (int32_t j = 0; j < w; j++) x.at[3 * i + j] = *plane++;
    return x;
}

static void crop(const nine *y, int32_t h, int32_t w, float *plane)
{
    for (int32_t i = 0; i < h; i++)
        for (int32_t j = 0; j < w; j++) *plane++ = y->at[3 * i + j];
}

/* All planes of one sample; `turned`: the taps are met in the other direction. */
static LFWD_INLINE void planes(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *out, const int32_t turned)
{
    const int32_t h = s->in_h, w = s->in_w, channels = s->in_c;
    for (int32_t c = 0; c < channels; c++, x += h * w, weight += 9, out += h * w) {
        nine taps = *(const nine *)weight;
        if (turned)
            for (int32_t k = 0; k < 9; k++) taps.at[k] = weight[8 - k];
        const float start = bias ? bias[c] : 0.0f;
        if (h + w == 6) {
            *(nine *)out = around((const nine *)x, &taps, start);
        } else {
            const nine wide = widened(x, h, w), y = around(&wide, &taps, start);
            crop(&y, h, w, out);
        }
    }
}

void lfwd_depthwise_small_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *out)
{
    const int32_t sample = s->in_c * s->in_h * s->in_w;
    for (int32_t n = 0; n < s->batch; n++) planes(x + n * sample, weight, bias, s, out + n * sample, 0);
}

void lfwd_depthwise_small_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *out)
{
    const int32_t sample = s->in_c * s->in_h * s->in_w;
    for (int32_t n = 0; n < s->batch; n++) planes(grad + n * sample, weight, 0, s, out + n * sample, 1);
}

void lfwd_sgd_depthwise_small_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr, float decay)
{
    const int32_t h = s->in_h, w = s->in_w, plane = h * w;
    for (int32_t n = 0; n < s->batch; n++) {
        nine *to = (nine *)state;
        const float keep = n ? 1.0f : decay;
        for (int32_t c = 0; c < s->in_c; c++, x += plane, grad += plane, to++) {
            nine sums;
            if (h + w == 6) {
                sums = around((const nine *)x, (const nine *)grad, 0.0f);
            } else {
                const nine wide = widened(x, h, w), g = widened(grad, h, w);
                sums = around(&wide, &g, 0.0f);
            }
            for (int32_t k = 0; k < 9; k++) to->at[k] = keep * to->at[k] - lr * sums.at[k];
        }
    }
}
