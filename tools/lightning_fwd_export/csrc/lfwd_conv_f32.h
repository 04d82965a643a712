/* What the float convolutions share (internal). */
#ifndef LFWD_CONV_F32_H
#define LFWD_CONV_F32_H
#include "lfwd_block4.h"
#include "lfwd_float.h"

/* One window, one position, nothing around it: a convolution that is a matrix product. */
static inline int32_t lfwd_is_pointwise(const lfwd_conv2d_shape *s)
{
    return s->kernel_h * s->kernel_w == 1 && s->stride_h == 1 && s->stride_w == 1 && s->pad_h == 0 && s->pad_w == 0;
}

/* A single pixel under a kernel of one pixel: a linear layer. */
static inline int32_t lfwd_is_linear(const lfwd_conv2d_shape *s)
{
    return lfwd_is_pointwise(s) && s->in_h * s->in_w == 1 && s->groups == 1;
}

static inline int32_t lfwd_is_depthwise(const lfwd_conv2d_shape *s)
{
    return s->groups > 1 && s->groups == s->in_c && s->groups == s->out_c;
}

enum { LFWD_MOST_RESIDUES = 4 };

/* Whether the depthwise gradient to the input has a kernel of its own: strides or dilated taps in each direction, not both. */
static inline int32_t lfwd_is_depthwise_turned(const lfwd_conv2d_shape *s)
{
    return lfwd_is_depthwise(s) && s->stride_h <= LFWD_MOST_RESIDUES && s->stride_w <= LFWD_MOST_RESIDUES && (s->stride_h == 1 || s->dilation_h == 1) && (s->stride_w == 1 || s->dilation_w == 1);
}

/* Whether the weights take their gradient from whole windows, four positions at a time: the planes are too small to be walked tap by tap. */
static inline int32_t lfwd_is_update_by_windows(const lfwd_conv2d_shape *s)
{
    return !lfwd_is_depthwise(s) && s->out_h * s->out_w > 1 && s->out_h * s->out_w <= 16;
}

/* The taps [from, to) of one dimension that any output position meets inside the image; empty where none does. */
typedef struct {
    int32_t from, to;
} lfwd_span;

static inline lfwd_span lfwd_met_span(int32_t in, int32_t out, int32_t kernel, int32_t stride, int32_t pad, int32_t dilation)
{
    lfwd_span t = {0, kernel}; /* positions of a tap run from tap * dilation - pad on, `stride` apart */
    while (t.from < t.to && (out - 1) * stride + t.from * dilation - pad < 0) t.from++;
    while (t.to > t.from && (t.to - 1) * dilation - pad >= in) t.to--;
    return t;
}

/* The taps that are met inside the image at all: few of them where the image is smaller than the kernel. The shape with a kernel of these
 * alone (its padding may be negative), and where they lie among the weights: in every `gap` + `inner` from `first` on the first `inner`. */
typedef struct {
    lfwd_conv2d_shape shape;
    int32_t first, inner, gap;
} lfwd_met_taps;

lfwd_met_taps lfwd_find_met_taps(const lfwd_conv2d_shape *s);

/* Where the windows of up to four positions start in an image of planes (h, w); tap (y, x) lies step_y * y, step_x * x further. */
typedef struct {
    int32_t h, w, kernel_h, kernel_w, step_y, step_x;
    int32_t count, y[4], x[4];
} lfwd_windows;

/* The next four output positions from `position` on, in rows of out_w: windows begin stride apart, `pad` before the image. Says how many. */
int32_t lfwd_next_windows(const lfwd_conv2d_shape *s, int32_t position, lfwd_windows *at);

/* columns[(plane * taps + tap) * 4 + position]: the image under each tap, zero outside it and for positions beyond `count`. */
void lfwd_gather_columns_f32(const float *image, int32_t planes, const lfwd_windows *at, float *columns);

/* conv2d_update_windows_f32.c */
void lfwd_sgd_conv2d_windows_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr, float *scratch);

/* depthwise_f32.c */
void lfwd_depthwise_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *scratch,
                        float *out);
void lfwd_depthwise_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *scratch,
                                   float *out);
void lfwd_sgd_depthwise_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr,
                            float decay, float *scratch);
int32_t lfwd_depthwise_scratch(const lfwd_conv2d_shape *s);
int32_t lfwd_depthwise_grad_input_scratch(const lfwd_conv2d_shape *s);
#endif
