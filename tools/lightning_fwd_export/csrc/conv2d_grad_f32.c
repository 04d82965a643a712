/* Gradients of the float convolution. The weight gradient of one tap is a dot product of two planes, so an update
 * never needs the gradient tensor. */
#include <string.h>

#include "lfwd_float.h"

/* Output positions [from, to) along one dimension that read inside the image through the tap at `offset`. */
typedef struct {
    int32_t from, to;
} range;

static inline range inside(int32_t offset, int32_t stride, int32_t in_size, int32_t out_size)
{
    range r = {offset < 0 ? (-offset + stride - 1) / stride : 0,
               in_size > offset ? (in_size - offset + stride - 1) / stride : 0};
    if (r.to > out_size) r.to = out_size;
    return r;
}

void lfwd_conv2d_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *out)
{
    const int32_t channels = s->in_c / s->groups, per_group = s->out_c / s->groups;
    const int32_t image = s->in_h * s->in_w, plane = s->out_h * s->out_w;
    memset(out, 0, (size_t)(s->batch * s->in_c * image) * sizeof *out);
    for (int32_t n = 0; n < s->batch; n++)
        for (int32_t o = 0; o < s->out_c; o++) {
            const float *g = grad + (n * s->out_c + o) * plane;
            const float *w = weight + o * channels * s->kernel_h * s->kernel_w;
            float *to = out + (n * s->in_c + o / per_group * channels) * image;
            for (int32_t c = 0; c < channels; c++, to += image)
                for (int32_t ky = 0; ky < s->kernel_h; ky++) {
                    const int32_t top = ky * s->dilation_h - s->pad_h;
                    const range y = inside(top, s->stride_h, s->in_h, s->out_h);
                    for (int32_t kx = 0; kx < s->kernel_w; kx++, w++) {
                        const int32_t left = kx * s->dilation_w - s->pad_w;
                        const range x = inside(left, s->stride_w, s->in_w, s->out_w);
                        const float v = *w;
                        for (int32_t i = y.from; i < y.to; i++) {
                            const float *row = g + i * s->out_w;
                            float *sum = to + (i * s->stride_h + top) * s->in_w + left;
                            for (int32_t j = x.from; j < x.to; j++) sum[j * s->stride_w] += v * row[j];
                        }
                    }
                }
        }
}

/* Gradient of weight (o, c, ky, kx): the output gradient's plane o against the input's plane c, shifted by the tap. */
static float tap_gradient(const float *grad, const float *x, const lfwd_conv2d_shape *s, int32_t o, int32_t c,
                          int32_t ky, int32_t kx)
{
    const int32_t top = ky * s->dilation_h - s->pad_h, left = kx * s->dilation_w - s->pad_w;
    const range rows = inside(top, s->stride_h, s->in_h, s->out_h);
    const range columns = inside(left, s->stride_w, s->in_w, s->out_w);
    float sum = 0.0f;
    for (int32_t n = 0; n < s->batch; n++) {
        const float *g = grad + (n * s->out_c + o) * s->out_h * s->out_w;
        const float *in = x + (n * s->in_c + c) * s->in_h * s->in_w;
        for (int32_t i = rows.from; i < rows.to; i++) {
            const float *row = g + i * s->out_w;
            const float *from = in + (i * s->stride_h + top) * s->in_w + left;
            for (int32_t j = columns.from; j < columns.to; j++) sum += row[j] * from[j * s->stride_w];
        }
    }
    return sum;
}

#define LFWD_FOR_EACH_TAP(statement)                                                             \
    const int32_t channels = s->in_c / s->groups, per_group = s->out_c / s->groups;              \
    for (int32_t o = 0; o < s->out_c; o++)                                                       \
        for (int32_t c = 0; c < channels; c++)                                                   \
            for (int32_t ky = 0; ky < s->kernel_h; ky++)                                         \
                for (int32_t kx = 0; kx < s->kernel_w; kx++) {                                   \
                    const float g = tap_gradient(grad, x, s, o, o / per_group * channels + c, ky, kx); \
                    statement;                                                                   \
                }

void lfwd_conv2d_grad_weight_f32(const float *grad, const float *x, const lfwd_conv2d_shape *s, float *out)
{
    LFWD_FOR_EACH_TAP(*out++ = g)
}

void lfwd_sgd_conv2d_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr,
                         float decay)
{
    LFWD_FOR_EACH_TAP(*state = decay * *state - lr * g; state++)
}
