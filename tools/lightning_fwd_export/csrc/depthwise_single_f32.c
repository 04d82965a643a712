/* Float depthwise convolution with one output per channel, and its gradients: the filter lies over the image once, so that an output is a dot
 * product, and the update takes a multiple of the image. */
#include <string.h>

#include "lfwd_depthwise.h"

/* Where image and filter meet: `rows` runs of `columns` values. In the image a run begins at `image`, steps by `step`, and the next one begins
 * `image_row` further; in the filter the same at `filter`, by 1, and `filter_row`. */
typedef struct {
    int32_t rows, columns, image, image_row, step, filter, filter_row;
} overlap;

static overlap find(const lfwd_conv2d_shape *s)
{
    const lfwd_span y = lfwd_met_span(s->in_h, 1, s->kernel_h, 1, s->pad_h, s->dilation_h);
    const lfwd_span x = lfwd_met_span(s->in_w, 1, s->kernel_w, 1, s->pad_w, s->dilation_w);
    const int32_t top = y.from * s->dilation_h - s->pad_h, left = x.from * s->dilation_w - s->pad_w;
    const overlap o = {y.to - y.from, x.to - x.from, top * s->in_w + left, s->dilation_h * s->in_w, s->dilation_w,
                       y.from * s->kernel_w + x.from, s->kernel_w};
    return o;
}

static float dot(const float *w, const float *x, int32_t step, int32_t count)
{
    float sum = 0.0f;
    if (step == 1)
        for (; count >= 4; count -= 4) {
            LFWD_LOADED;
            LFWD_NEXT_LOW4(w);
            LFWD_NEXT_HIGH4(x);
            sum += y0 * y4, sum += y1 * y5, sum += y2 * y6, sum += y3 * y7;
            (void)u0, (void)u1;
        }
    for (; count > 0; count--, x += step) sum += *w++ * *x;
    return sum;
}

void lfwd_depthwise_single_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *out)
{
    const overlap o = find(s);
    const int32_t channels = s->in_c, image = s->in_h * s->in_w, taps = s->kernel_h * s->kernel_w;
    for (int32_t i = 0; i < s->batch * channels; i++, x += image) {
        const float *w = weight + i % channels * taps + o.filter, *from = x + o.image;
        float sum = bias ? bias[i % channels] : 0.0f;
        for (int32_t row = o.rows; row > 0; row--, w += o.filter_row, from += o.image_row) sum += dot(w, from, o.step, o.columns);
        out[i] = sum;
    }
}

void lfwd_depthwise_single_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *out)
{
    const overlap o = find(s);
    const int32_t channels = s->in_c, image = s->in_h * s->in_w, taps = s->kernel_h * s->kernel_w;
    memset(out, 0, (size_t)(s->batch * channels * image) * sizeof *out);
    for (int32_t i = 0; i < s->batch * channels; i++, out += image) {
        const float *w = weight + i % channels * taps + o.filter;
        float *to = out + o.image;
        for (int32_t row = o.rows; row > 0; row--, w += o.filter_row, to += o.image_row)
            for (int32_t k = 0; k < o.columns; k++) to[k * o.step] = grad[i] * w[k];
    }
}

void lfwd_sgd_depthwise_single_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr, float decay)
{
    const overlap o = find(s);
    const int32_t channels = s->in_c, image = s->in_h * s->in_w, taps = s->kernel_h * s->kernel_w;
    if (decay != 1.0f)
        for (int32_t i = 0; i < channels * taps; i++) state[i] *= decay;
    for (int32_t i = 0; i < s->batch * channels; i++, x += image) {
        float *w = state + i % channels * taps + o.filter;
        const float *from = x + o.image;
        for (int32_t row = o.rows; row > 0; row--, w += o.filter_row, from += o.image_row)
            lfwd_add_multiple(w, from, o.step, o.columns, -lr * grad[i]);
    }
}
