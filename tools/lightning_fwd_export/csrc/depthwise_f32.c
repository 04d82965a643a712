/* Float depthwise convolution. */
#include <string.h>

#include "lfwd_depthwise.h"

/* A plane (h, w) into the middle of one of rows (height, width), whose margin is zero; what does not fit below and right is left out. */
void lfwd_place_plane_f32(const float *in, int32_t h, int32_t w, int32_t top, int32_t left, int32_t height, int32_t width, float *out)
{
    const int32_t rows = lfwd_least(h, height - top), columns = lfwd_least(w, width - left), whole = columns & ~3;
    out += top * width + left;
    for (int32_t y = rows; y > 0; y--, in += w, out += width) {
        for (int32_t x = 0; x < whole; x += 4) *(lfwd_four *)(out + x) = *(const lfwd_four *)(in + x);
        for (int32_t x = whole; x < columns; x++) out[x] = in[x];
    }
}

int32_t lfwd_depthwise_scratch(const lfwd_conv2d_shape *s)
{
    const int32_t beyond = 3 * s->stride_w; /* read, not used, where fewer than four columns are left */
    return lfwd_reach(s->out_h, s->stride_h, s->kernel_h, s->dilation_h) * lfwd_reach(s->out_w, s->stride_w, s->kernel_w, s->dilation_w) + beyond;
}

void lfwd_depthwise_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *scratch,
                        float *out)
{
    if (lfwd_is_depthwise_single(s)) {
        lfwd_depthwise_single_f32(x, weight, bias, s, out);
        return;
    }
    if (lfwd_is_depthwise_small(s)) {
        lfwd_depthwise_small_f32(x, weight, bias, s, out);
        return;
    }
    const int32_t taps = s->kernel_h * s->kernel_w;
    const int32_t height = lfwd_reach(s->out_h, s->stride_h, s->kernel_h, s->dilation_h);
    const int32_t width = lfwd_reach(s->out_w, s->stride_w, s->kernel_w, s->dilation_w);
    lfwd_correlation c = {scratch, weight, s->stride_h * width, s->stride_w, s->kernel_h, s->kernel_w, s->dilation_h * width, s->dilation_w,
                     s->kernel_w, 1, s->out_h, s->out_w, s->out_w, 1, 0.0f};
    memset(scratch, 0, (size_t)lfwd_depthwise_scratch(s) * sizeof *scratch);
    for (int32_t i = 0; i < s->batch * s->in_c; i++, x += s->in_h * s->in_w, out += s->out_h * s->out_w) {
        lfwd_place_plane_f32(x, s->in_h, s->in_w, s->pad_h, s->pad_w, height, width, scratch);
        c.w = weight + i % s->in_c * taps;
        c.start = bias ? bias[i % s->in_c] : 0.0f;
        lfwd_correlate_f32(&c, out);
    }
}
