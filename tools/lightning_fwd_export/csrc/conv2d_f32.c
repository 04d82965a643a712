/* Float convolution, NCHW, grouped, strided, dilated: a matrix product of the weights and four columns of windows at a time.
 * Where every window is one pixel the image itself is the matrix. */
#include "lfwd_conv_f32.h"
#include "lfwd_products.h"

int32_t lfwd_conv2d_scratch(const lfwd_conv2d_shape *s)
{
    if (lfwd_is_depthwise(s)) return lfwd_depthwise_scratch(s);
    return lfwd_is_pointwise(s) ? 0 : s->in_c / s->groups * s->kernel_h * s->kernel_w * 4;
}

void lfwd_conv2d_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *scratch,
                     float *out)
{
    if (lfwd_is_depthwise(s)) {
        lfwd_depthwise_f32(x, weight, bias, s, scratch, out);
        return;
    }
    const lfwd_met_taps met = lfwd_find_met_taps(s);
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups, pixels = s->out_h * s->out_w;
    const int32_t image = channels * s->in_h * s->in_w, k = channels * s->kernel_h * s->kernel_w;
    if (lfwd_is_linear(s)) {
        lfwd_linear_f32(x, weight, bias, s->batch, channels, outputs, out);
        return;
    }
    const int32_t outer = met.gap ? channels : 1, inner = met.gap ? met.inner : k;
    lfwd_windows at = {s->in_h, s->in_w, met.shape.kernel_h, met.shape.kernel_w, s->dilation_h, s->dilation_w, 0, {0}, {0}};
    weight += met.first;
    for (int32_t n = 0; n < s->batch; n++)
        for (int32_t g = 0; g < s->groups; g++, x += image, out += outputs * pixels) {
            lfwd_product p = {weight + g * outputs * k, outputs, k, outer, inner, met.gap, x, pixels, pixels, bias ? bias + g * outputs : 0,
                              out, pixels};
            if (lfwd_is_pointwise(&met.shape)) {
                lfwd_product_f32(&p);
                continue;
            }
            p.b = scratch, p.b_row = 4;
            for (int32_t i = 0; i < pixels; i += 4, p.out += 4) {
                p.n = lfwd_next_windows(&met.shape, i, &at);
                lfwd_gather_columns_f32(x, channels, &at, scratch);
                lfwd_product_f32(&p);
            }
        }
}
