/* Gradient of the float convolution to its input. Stride 1: a convolution of the output's gradient with the taps turned round.
 * Other strides: what each output position hands back is one matrix product, added up where its window lies. */
#include <string.h>

#include "lfwd_conv_f32.h"
#include "lfwd_products.h"

int32_t lfwd_conv2d_grad_input_scratch(const lfwd_conv2d_shape *s)
{
    if (lfwd_is_depthwise_turned(s)) return lfwd_depthwise_grad_input_scratch(s);
    const int32_t unit = s->stride_h == 1 && s->stride_w == 1;
    return unit && !lfwd_is_pointwise(s) ? s->out_c / s->groups * s->kernel_h * s->kernel_w * 4 : 0;
}

/* One group of one sample, stride 1: the windows of an input pixel run backwards through the output. */
static void turned_round(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *scratch, float *out)
{
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups, taps = s->kernel_h * s->kernel_w;
    const int32_t pixels = s->in_h * s->in_w;
    lfwd_windows at = {s->out_h, s->out_w, s->kernel_h, s->kernel_w, -s->dilation_h, -s->dilation_w, 0, {0}, {0}};
    lfwd_product p = {weight, channels, taps, outputs, taps, (channels - 1) * taps, scratch, 0, 4, 0, out, pixels};
    int32_t y = s->pad_h, x = s->pad_w;
    for (int32_t i = 0; i < pixels; i += 4, p.out += 4) {
        p.n = at.count = lfwd_least(pixels - i, 4);
        for (int32_t j = 0; j < at.count; j++) {
            at.y[j] = y, at.x[j] = x;
            if (++x == s->in_w + s->pad_w) x = s->pad_w, y++;
        }
        lfwd_gather_columns_f32(grad, outputs, &at, scratch);
        lfwd_product_f32(&p);
    }
}

/* Up to four output positions: the row and column where their windows begin, and the same as an offset into the plane;
 * `inside`: there are four, and their windows lie inside the image. */
typedef struct {
    int32_t count, y[4], x[4], offset[4], inside;
} positions;

static positions next_positions(const lfwd_conv2d_shape *s, int32_t from)
{
    const int32_t count = lfwd_least(s->out_h * s->out_w - from, 4);
    positions p = {count, {0}, {0}, {0}, count == 4};
    int32_t y = from / s->out_w, x = from % s->out_w;
    for (int32_t j = 0; j < p.count; j++) {
        p.y[j] = y * s->stride_h - s->pad_h;
        p.x[j] = x * s->stride_w - s->pad_w;
        if (++x == s->out_w) x = 0, y++;
        p.offset[j] = p.y[j] * s->in_w + p.x[j];
        if (p.y[j] < 0 || p.y[j] + (s->kernel_h - 1) * s->dilation_h >= s->in_h || p.x[j] < 0 ||
            p.x[j] + (s->kernel_w - 1) * s->dilation_w >= s->in_w)
            p.inside = 0;
    }
    return p;
}

/* A tap of the window, walked in the order of the weights: channel, row, column; `plane` is the channel's in the input. */
typedef struct {
    float *plane;
    int32_t ky, kx;
} tap;

enum { ROWS = 16 }; /* of the product that are computed before they are added */

/* Adds `rows` times the sums of four positions where their windows lie. What is read again and again is copied: a store of a float may
 * change anything else, for all that the compiler knows. */
static void add_sums(const lfwd_conv2d_shape *s, const positions *at, const float *sum, int32_t rows, tap *walked)
{
    const int32_t o0 = at->offset[0], o1 = at->offset[1], o2 = at->offset[2], o3 = at->offset[3], inside = at->inside;
    const int32_t in_h = s->in_h, in_w = s->in_w, kernel_h = s->kernel_h, kernel_w = s->kernel_w;
    const int32_t step = s->dilation_w, line = s->dilation_h * in_w - kernel_w * step;
    const int32_t next = in_h * in_w - kernel_h * s->dilation_h * in_w;
    tap t = *walked;
    float *to = t.plane + t.ky * s->dilation_h * in_w + t.kx * step;
    for (; rows > 0; rows--, sum += 4) {
        if (inside) {
            LFWD_LOADED;
            LFWD_LOW4(sum);
            to[o0] += y0, to[o1] += y1, to[o2] += y2, to[o3] += y3;
            (void)y4, (void)y5, (void)y6, (void)y7, (void)u0, (void)u1;
        } else {
            for (int32_t j = 0; j < at->count; j++) {
                const uint32_t y = (uint32_t)(at->y[j] + t.ky * s->dilation_h), x = (uint32_t)(at->x[j] + t.kx * step);
                if (y < (uint32_t)in_h && x < (uint32_t)in_w) to[at->offset[j]] += sum[j];
            }
        }
        to += step;
        if (++t.kx < kernel_w) continue;
        t.kx = 0, to += line;
        if (++t.ky < kernel_h) continue;
        t.ky = 0, to += next, t.plane += in_h * in_w;
    }
    *walked = t;
}

/* One group of one sample, any stride. Rows of the product are (channel, ky, kx). */
static void scattered(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *out)
{
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups, taps = s->kernel_h * s->kernel_w;
    const int32_t pixels = s->out_h * s->out_w, rows = channels * taps;
    float sums[4 * ROWS];
    for (int32_t i = 0; i < pixels; i += 4) {
        const positions at = next_positions(s, i);
        tap t = {out, 0, 0};
        for (int32_t r = 0; r < rows; r += ROWS) {
            const int32_t some = lfwd_least(rows - r, ROWS);
            const lfwd_product p = {weight + r, some, rows, 1, outputs, 0, grad + i, at.count, pixels, 0, sums, 4};
            lfwd_product_transposed_f32(&p);
            add_sums(s, &at, sums, some, &t);
        }
    }
}

void lfwd_conv2d_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *scratch, float *out)
{
    if (lfwd_is_depthwise_turned(s)) {
        lfwd_depthwise_grad_input_f32(grad, weight, s, scratch, out);
        return;
    }
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups;
    const int32_t pixels = s->out_h * s->out_w, image = s->in_h * s->in_w, taps = s->kernel_h * s->kernel_w;
    const int32_t unit = s->stride_h == 1 && s->stride_w == 1;
    if (!unit) memset(out, 0, (size_t)(s->batch * s->in_c * image) * sizeof *out);
    for (int32_t n = 0; n < s->batch; n++)
        for (int32_t g = 0; g < s->groups; g++, grad += outputs * pixels, out += channels * image) {
            const float *w = weight + g * outputs * channels * taps;
            if (lfwd_is_pointwise(s)) {
                const lfwd_product p = {w, channels, channels, 1, outputs, 0, grad, pixels, pixels, 0, out, image};
                lfwd_product_transposed_f32(&p);
            } else if (unit) {
                turned_round(grad, w, s, scratch, out);
            } else {
                scattered(grad, w, s, out);
            }
        }
}
