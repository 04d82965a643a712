/* Windows of an image as columns of a matrix, four positions at a time (im2col without the matrix of the whole image). */
#include "lfwd_conv_f32.h"

/* At least one, whose values are zeros where none is met. */
static lfwd_span some(int32_t in, int32_t out, int32_t kernel, int32_t stride, int32_t pad, int32_t dilation)
{
    const lfwd_span t = lfwd_met_span(in, out, kernel, stride, pad, dilation), all = {0, kernel};
    return t.from < t.to ? t : all;
}

lfwd_met_taps lfwd_find_met_taps(const lfwd_conv2d_shape *s)
{
    const lfwd_span y = some(s->in_h, s->out_h, s->kernel_h, s->stride_h, s->pad_h, s->dilation_h);
    lfwd_span x = some(s->in_w, s->out_w, s->kernel_w, s->stride_w, s->pad_w, s->dilation_w);
    if (y.to - y.from > 1) x.from = 0, x.to = s->kernel_w; /* so that they lie side by side */
    lfwd_met_taps m = {*s, y.from * s->kernel_w + x.from, 0, 0};
    m.shape.kernel_h = y.to - y.from, m.shape.pad_h -= y.from * s->dilation_h;
    m.shape.kernel_w = x.to - x.from, m.shape.pad_w -= x.from * s->dilation_w;
    m.inner = m.shape.kernel_h * m.shape.kernel_w, m.gap = s->kernel_h * s->kernel_w - m.inner;
    return m;
}

int32_t lfwd_next_windows(const lfwd_conv2d_shape *s, int32_t position, lfwd_windows *at)
{
    at->count = lfwd_least(s->out_h * s->out_w - position, 4);
    int32_t y = position / s->out_w, x = position % s->out_w;
    for (int32_t j = 0; j < at->count; j++) {
        at->y[j] = y * s->stride_h - s->pad_h;
        at->x[j] = x * s->stride_w - s->pad_w;
        if (++x == s->out_w) x = 0, y++;
    }
    return at->count;
}

static const float outside = 0.0f;

/* One tap of four positions, plane after plane: from[j] steps by step[j], which is 0 where the tap lies outside the image. */
static inline void one_tap(const float *const from[4], const int32_t step[4], int32_t planes, int32_t stride, float *to)
{
    const float *f0 = from[0], *f1 = from[1], *f2 = from[2], *f3 = from[3];
    const int32_t s0 = step[0], s1 = step[1], s2 = step[2], s3 = step[3];
    for (; planes > 0; planes--, to += stride - 4) {
        LFWD_LOADED;
        y4 = *f0, y5 = *f1, y6 = *f2, y7 = *f3;
        LFWD_PUT_HIGH4(to);
        f0 += s0, f1 += s1, f2 += s2, f3 += s3;
        (void)y0, (void)y1, (void)y2, (void)y3, (void)u0, (void)u1;
    }
}

/* The same for four neighbours inside the image. */
static inline void one_tap_inside(const float *from, int32_t plane, int32_t planes, int32_t stride, float *to)
{
    for (; planes > 0; planes--, from += plane, to += stride - 4) {
        LFWD_LOADED;
        LFWD_HIGH4(from);
        LFWD_PUT_HIGH4(to);
        (void)y0, (void)y1, (void)y2, (void)y3, (void)u0, (void)u1;
    }
}

void lfwd_gather_columns_f32(const float *image, int32_t planes, const lfwd_windows *at, float *columns)
{
    const int32_t plane = at->h * at->w, stride = 4 * at->kernel_h * at->kernel_w;
    const int32_t neighbours = at->count == 4 && at->y[0] == at->y[3] && at->x[3] - at->x[0] == 3;
    for (int32_t ky = 0; ky < at->kernel_h; ky++)
        for (int32_t kx = 0; kx < at->kernel_w; kx++, columns += 4) {
            const int32_t down = ky * at->step_y, right = kx * at->step_x, top = at->y[0] + down, first = at->x[0] + right;
            if (neighbours && top >= 0 && top < at->h && first >= 0 && first + 3 < at->w) {
                one_tap_inside(image + top * at->w + first, plane, planes, stride, columns);
                continue;
            }
            const float *from[4] = {&outside, &outside, &outside, &outside};
            int32_t step[4] = {0};
            for (int32_t j = 0; j < at->count; j++) {
                const int32_t y = at->y[j] + down, x = at->x[j] + right;
                if (y < 0 || y >= at->h || x < 0 || x >= at->w) continue;
                from[j] = image + y * at->w + x;
                step[j] = plane;
            }
            one_tap(from, step, planes, stride, columns);
        }
}
