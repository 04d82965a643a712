/* Float pooling over planes (batch * channels) and its gradients. */
#include <math.h>
#include <string.h>

#include "lfwd_float.h"

void lfwd_max_pool2d_f32(const float *x, const lfwd_pool2d_shape *s, float *out, int64_t *index)
{
    for (int32_t p = 0; p < s->planes; p++, x += s->in_h * s->in_w)
        for (int32_t y = 0; y < s->out_h; y++)
            for (int32_t i = 0; i < s->out_w; i++) {
                float top = -INFINITY;
                int32_t where = -1;
                for (int32_t ky = 0; ky < s->kernel_h; ky++)
                    for (int32_t kx = 0; kx < s->kernel_w; kx++) {
                        const int32_t iy = y * s->stride_h - s->pad_h + ky * s->dilation_h;
                        const int32_t ix = i * s->stride_w - s->pad_w + kx * s->dilation_w;
                        if (iy < 0 || iy >= s->in_h || ix < 0 || ix >= s->in_w) continue;
                        const float value = x[iy * s->in_w + ix];
                        if (where < 0 || value > top || isnan(value)) top = value, where = iy * s->in_w + ix;
                    }
                *out++ = top;
                if (index) *index++ = where;
            }
}

void lfwd_max_pool2d_backward_f32(const float *grad, const int64_t *index, int32_t planes, int32_t image, int32_t pooled,
                                  float *out)
{
    memset(out, 0, (size_t)(planes * image) * sizeof *out);
    for (int32_t p = 0; p < planes; p++, out += image)
        for (int32_t i = 0; i < pooled; i++, index++, grad++)
            if (*index >= 0 && *index < image) out[*index] += *grad;
}

typedef struct {
    int32_t y0, y1, x0, x1;
    float scale;
} window;

typedef window window_of(const lfwd_pool2d_shape *s, int32_t y, int32_t x);

static window average_window(const lfwd_pool2d_shape *s, int32_t y, int32_t x)
{
    const int32_t top = y * s->stride_h - s->pad_h, left = x * s->stride_w - s->pad_w;
    /* The window may reach one padding beyond the image, no further (ceil_mode). */
    const int32_t bottom = top + s->kernel_h < s->in_h + s->pad_h ? top + s->kernel_h : s->in_h + s->pad_h;
    const int32_t right = left + s->kernel_w < s->in_w + s->pad_w ? left + s->kernel_w : s->in_w + s->pad_w;
    window w = {top < 0 ? 0 : top, bottom < s->in_h ? bottom : s->in_h, left < 0 ? 0 : left,
                right < s->in_w ? right : s->in_w, 0.0f};
    const int32_t counted = s->count_pad ? (bottom - top) * (right - left) : (w.y1 - w.y0) * (w.x1 - w.x0);
    w.scale = 1.0f / (float)(s->divisor ? s->divisor : counted);
    return w;
}

/* Windows that cover the image, neighbours sharing a row where the sizes do not divide. */
static window adaptive_window(const lfwd_pool2d_shape *s, int32_t y, int32_t x)
{
    window w = {y * s->in_h / s->out_h, ((y + 1) * s->in_h + s->out_h - 1) / s->out_h, x * s->in_w / s->out_w,
                ((x + 1) * s->in_w + s->out_w - 1) / s->out_w, 0.0f};
    w.scale = 1.0f / (float)((w.y1 - w.y0) * (w.x1 - w.x0));
    return w;
}

static inline void average(const float *x, const lfwd_pool2d_shape *s, window_of *window_at, float *out)
{
    for (int32_t p = 0; p < s->planes; p++, x += s->in_h * s->in_w)
        for (int32_t y = 0; y < s->out_h; y++)
            for (int32_t i = 0; i < s->out_w; i++) {
                const window w = window_at(s, y, i);
                float sum = 0.0f;
                for (int32_t iy = w.y0; iy < w.y1; iy++)
                    for (int32_t ix = w.x0; ix < w.x1; ix++) sum += x[iy * s->in_w + ix];
                *out++ = sum * w.scale;
            }
}

static inline void average_backward(const float *grad, const lfwd_pool2d_shape *s, window_of *window_at, float *out)
{
    const int32_t image = s->in_h * s->in_w;
    memset(out, 0, (size_t)(s->planes * image) * sizeof *out);
    for (int32_t p = 0; p < s->planes; p++, out += image)
        for (int32_t y = 0; y < s->out_h; y++)
            for (int32_t i = 0; i < s->out_w; i++, grad++) {
                const window w = window_at(s, y, i);
                for (int32_t iy = w.y0; iy < w.y1; iy++)
                    for (int32_t ix = w.x0; ix < w.x1; ix++) out[iy * s->in_w + ix] += *grad * w.scale;
            }
}

void lfwd_avg_pool2d_f32(const float *x, const lfwd_pool2d_shape *s, float *out)
{
    average(x, s, average_window, out);
}

void lfwd_avg_pool2d_backward_f32(const float *grad, const lfwd_pool2d_shape *s, float *out)
{
    average_backward(grad, s, average_window, out);
}

void lfwd_adaptive_avg_pool2d_f32(const float *x, const lfwd_pool2d_shape *s, float *out)
{
    average(x, s, adaptive_window, out);
}

void lfwd_adaptive_avg_pool2d_backward_f32(const float *grad, const lfwd_pool2d_shape *s, float *out)
{
    average_backward(grad, s, adaptive_window, out);
}
