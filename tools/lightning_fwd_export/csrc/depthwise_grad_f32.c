/* Gradient of the float depthwise convolution to its input: a correlation with the taps turned round, one for every residue of a position
 * by the stride. */
#include <string.h>

#include "lfwd_depthwise.h"

/* One dimension of the gradient to the input. Input positions `first`, `first` + stride, ... all meet the same taps, every stride-th
 * from `residue` on, the last of them first; in the padded output the first tap of the first position lies at `start`. */
typedef struct {
    int32_t first, count, taps, last_tap, start;
} side;

/* Zeros before and after the gradient's plane, and its length with them. Dilated taps come with stride 1 only. */
static inline int32_t before(int32_t stride, int32_t kernel, int32_t dilation)
{
    return stride == 1 ? (kernel - 1) * dilation : (kernel - 1) / stride;
}

static inline int32_t length(int32_t in, int32_t out, int32_t stride, int32_t kernel, int32_t dilation, int32_t pad)
{
    const int32_t last = (in - 1 + pad) / stride;
    return before(stride, kernel, dilation) + (last + 1 > out ? last + 1 : out);
}

static side side_of(int32_t residue, int32_t in, int32_t stride, int32_t kernel, int32_t dilation, int32_t pad)
{
    side d;
    d.first = ((residue - pad) % stride + stride) % stride;
    d.count = in > d.first ? (in - d.first + stride - 1) / stride : 0;
    d.taps = kernel > residue ? (kernel - residue + stride - 1) / stride : 0;
    d.last_tap = residue + (d.taps - 1) * stride;
    d.start = (d.first + pad) / stride + before(stride, kernel, dilation) - (d.taps - 1) * (stride == 1 ? dilation : 1);
    return d;
}

int32_t lfwd_depthwise_grad_input_scratch(const lfwd_conv2d_shape *s)
{
    return length(s->in_h, s->out_h, s->stride_h, s->kernel_h, s->dilation_h, s->pad_h) *
               length(s->in_w, s->out_w, s->stride_w, s->kernel_w, s->dilation_w, s->pad_w) +
           4;
}

void lfwd_depthwise_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *scratch, float *out)
{
    if (lfwd_is_depthwise_single(s)) {
        lfwd_depthwise_single_grad_input_f32(grad, weight, s, out);
        return;
    }
    if (lfwd_is_depthwise_small(s)) {
        lfwd_depthwise_small_grad_input_f32(grad, weight, s, out);
        return;
    }
    const int32_t taps = s->kernel_h * s->kernel_w;
    const int32_t top = before(s->stride_h, s->kernel_h, s->dilation_h), left = before(s->stride_w, s->kernel_w, s->dilation_w);
    const int32_t height = length(s->in_h, s->out_h, s->stride_h, s->kernel_h, s->dilation_h, s->pad_h);
    const int32_t width = length(s->in_w, s->out_w, s->stride_w, s->kernel_w, s->dilation_w, s->pad_w);
    side down[LFWD_MOST_RESIDUES] = {{0}}, across[LFWD_MOST_RESIDUES] = {{0}};
    for (int32_t r = 0; r < s->stride_h; r++) down[r] = side_of(r, s->in_h, s->stride_h, s->kernel_h, s->dilation_h, s->pad_h);
    for (int32_t r = 0; r < s->stride_w; r++) across[r] = side_of(r, s->in_w, s->stride_w, s->kernel_w, s->dilation_w, s->pad_w);
    memset(scratch, 0, (size_t)lfwd_depthwise_grad_input_scratch(s) * sizeof *scratch);
    for (int32_t i = 0; i < s->batch * s->in_c; i++, grad += s->out_h * s->out_w, out += s->in_h * s->in_w) {
        const float *w = weight + i % s->in_c * taps;
        lfwd_place_plane_f32(grad, s->out_h, s->out_w, top, left, height, width, scratch);
        if (lfwd_is_depthwise_doubled(s)) {
            lfwd_depthwise_doubled_f32(scratch, width, w, s, out);
            continue;
        }
        for (int32_t ry = 0; ry < s->stride_h; ry++)
            for (int32_t rx = 0; rx < s->stride_w; rx++) {
                const side y = down[ry], x = across[rx];
                if (y.count == 0 || x.count == 0) continue;
                const lfwd_correlation c = {scratch + y.start * width + x.start, w + y.last_tap * s->kernel_w + x.last_tap, width, 1,
                                       x.taps ? y.taps : 0, x.taps, (s->stride_h == 1 ? s->dilation_h : 1) * width,
                                       s->stride_w == 1 ? s->dilation_w : 1, -s->stride_h * s->kernel_w, -s->stride_w,
                                       y.count, x.count, s->stride_h * s->in_w, s->stride_w, 0.0f};
                lfwd_correlate_f32(&c, out + y.first * s->in_w + x.first);
            }
    }
}
