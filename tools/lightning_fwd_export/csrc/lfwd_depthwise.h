/* What the float depthwise convolution and its gradients share (internal): one channel at a time from a copy of its plane with zeros around
 * it, so that no tap needs a test. */
#ifndef LFWD_DEPTHWISE_H
#define LFWD_DEPTHWISE_H
#include "lfwd_conv_f32.h"

/* A plane (h, w) into the middle of one of rows (height, width), whose margin is zero; what does not fit below and right is left out. */
void lfwd_place_plane_f32(const float *in, int32_t h, int32_t w, int32_t top, int32_t left, int32_t height, int32_t width, float *out);

/* out = start + taps over an image without edges. Positions step by `down` and `right` in the image, by out_row and out_step in
 * the output; taps by tap_row and tap_step in the image, by w_row and w_step in the weights. */
typedef struct {
    const float *image, *w;
    int32_t down, right, kernel_h, kernel_w, tap_row, tap_step, w_row, w_step;
    int32_t rows, columns, out_row, out_step;
    float start;
} lfwd_correlation;

void lfwd_correlate_f32(const lfwd_correlation *c, float *out);

/* Rows (or columns) of the padded plane that `out` windows reach. */
static inline int32_t lfwd_reach(int32_t out, int32_t stride, int32_t kernel, int32_t dilation)
{
    return (out - 1) * stride + (kernel - 1) * dilation + 1;
}

/* depthwise_small_f32.c: a filter of 3 x 3 around each pixel of an image of at most 3 x 3 */
static inline int32_t lfwd_is_depthwise_small(const lfwd_conv2d_shape *s)
{
    return lfwd_is_depthwise(s) && s->kernel_h == 3 && s->kernel_w == 3 && s->stride_h == 1 && s->stride_w == 1 && s->pad_h == 1 &&
           s->pad_w == 1 && s->dilation_h == 1 && s->dilation_w == 1 && s->in_h <= 3 && s->in_w <= 3;
}
void lfwd_depthwise_small_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *out);
void lfwd_depthwise_small_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *out);
void lfwd_sgd_depthwise_small_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr, float decay);

/* depthwise_single_f32.c: one output per channel, as where a filter is as large as the image */
static inline int32_t lfwd_is_depthwise_single(const lfwd_conv2d_shape *s)
{
    return lfwd_is_depthwise(s) && s->out_h * s->out_w == 1;
}
void lfwd_depthwise_single_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *out);
void lfwd_depthwise_single_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *out);
void lfwd_sgd_depthwise_single_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr, float decay);

/* depthwise_doubled_f32.c: the gradient to the input of a 3 x 3 filter with stride 2, for one plane of the output's gradient with one row and
 * one column of zeros before it */
static inline int32_t lfwd_is_depthwise_doubled(const lfwd_conv2d_shape *s)
{
    return s->kernel_h == 3 && s->kernel_w == 3 && s->stride_h == 2 && s->stride_w == 2 && s->pad_h == s->pad_w && s->pad_h <= 1 &&
           s->dilation_h == 1 && s->dilation_w == 1;
}
void lfwd_depthwise_doubled_f32(const float *padded, int32_t width, const float *w, const lfwd_conv2d_shape *s, float *out);
#endif
