/* Update of a float depthwise convolution's weights by their gradient. */
#include <string.h>

#include "lfwd_depthwise.h"

/* Three neighbouring taps of one kernel row, four positions at a time. */
static LFWD_INLINE void three_taps(const float *grad, const float *image, int32_t rows, int32_t columns, int32_t down, const int32_t right,
                              float sums[3])
{
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f;
    for (; rows != 0; rows--, image += down) {
        const float *p = image;
        int32_t single = columns;
        if (right <= 2) {
            for (int32_t k = columns >> 2; k != 0; k--, p += 4 * right) {
                LFWD_OPAQUE(k);
                LFWD_LOADED;
                if (right == 1) {
                    LFWD_LOW6(p);
                    LFWD_NEXT_TOP4(grad);
                    s0 += y6 * y0, s1 += y6 * y1, s2 += y6 * y2;
                    s0 += y7 * y1, s1 += y7 * y2, s2 += y7 * y3;
                    s0 += u0 * y2, s1 += u0 * y3, s2 += u0 * y4;
                    s0 += u1 * y3, s1 += u1 * y4, s2 += u1 * y5;
                } else {
                    LFWD_LOW8(p);
                    LFWD_NEXT2(grad);
                    s0 += u0 * y0, s1 += u0 * y1, s2 += u0 * y2;
                    s0 += u1 * y2, s1 += u1 * y3, s2 += u1 * y4;
                    LFWD_NEXT2(grad);
                    s0 += u0 * y4, s1 += u0 * y5, s2 += u0 * y6;
                    s0 += u1 * y6, s1 += u1 * y7, s2 += u1 * p[8];
                }
            }
            single = columns & 3;
        }
        for (; single != 0; single--, p += right) {
            LFWD_OPAQUE(single);
            const float g = *grad++;
            s0 += g * p[0], s1 += g * p[1], s2 += g * p[2];
        }
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2;
}

static LFWD_APART void taps3(const float *grad, const float *image, int32_t rows, int32_t columns, int32_t down, int32_t right, float sums[3])
{
    if (right == 1)
        three_taps(grad, image, rows, columns, down, 1, sums);
    else if (right == 2)
        three_taps(grad, image, rows, columns, down, 2, sums);
    else
        three_taps(grad, image, rows, columns, down, right, sums);
}

static inline float tap1(const float *grad, const float *image, int32_t rows, int32_t columns, int32_t down, int32_t right)
{
    float sum = 0.0f;
    for (; rows > 0; rows--, image += down)
        for (int32_t k = 0; k < columns; k++) sum += *grad++ * image[k * right];
    return sum;
}

/* Many taps of one kernel row: a correlation of the image with the gradient, whose outputs are the taps. Some at a time, never fewer than
 * four, so that none is read beyond the last. */
enum { TAPS = 16 };

static void row_of_taps(float *to, const float *grad, const float *image, const lfwd_conv2d_shape *s, int32_t down, float lr, float keep)
{
    for (int32_t kx = 0; kx < s->kernel_w;) {
        const int32_t left = s->kernel_w - kx, count = left > TAPS ? TAPS - 4 : left;
        const lfwd_correlation c = {image + kx * s->dilation_w, grad, 0, s->dilation_w, s->out_h, s->out_w, down, s->stride_w,
                                    s->out_w, 1, 1, count, 0, 1, 0.0f};
        float sums[TAPS];
        lfwd_correlate_f32(&c, sums);
        for (int32_t k = 0; k < count; k++) to[kx + k] = keep * to[kx + k] - lr * sums[k];
        kx += count;
    }
}

void lfwd_sgd_depthwise_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr, float decay,
                            float *scratch)
{
    if (lfwd_is_depthwise_single(s)) {
        lfwd_sgd_depthwise_single_f32(state, grad, x, s, lr, decay);
        return;
    }
    if (lfwd_is_depthwise_small(s)) {
        lfwd_sgd_depthwise_small_f32(state, grad, x, s, lr, decay);
        return;
    }
    const int32_t height = lfwd_reach(s->out_h, s->stride_h, s->kernel_h, s->dilation_h);
    const int32_t width = lfwd_reach(s->out_w, s->stride_w, s->kernel_w, s->dilation_w), down = s->stride_h * width;
    memset(scratch, 0, (size_t)lfwd_depthwise_scratch(s) * sizeof *scratch);
    for (int32_t n = 0; n < s->batch; n++) {
        float *to = state;
        for (int32_t i = 0; i < s->in_c; i++, x += s->in_h * s->in_w, grad += s->out_h * s->out_w) {
            lfwd_place_plane_f32(x, s->in_h, s->in_w, s->pad_h, s->pad_w, height, width, scratch);
            for (int32_t ky = 0; ky < s->kernel_h; ky++, to += s->kernel_w) {
                const float *image = scratch + ky * s->dilation_h * width;
                if (s->kernel_w > 3) {
                    row_of_taps(to, grad, image, s, down, lr, n ? 1.0f : decay);
                    continue;
                }
                float sums[3] = {0};
                if (s->kernel_w == 3 && s->dilation_w == 1) taps3(grad, image, s->out_h, s->out_w, down, s->stride_w, sums);
                for (int32_t kx = 0; kx < s->kernel_w; kx++) {
                    const float g = s->kernel_w == 3 && s->dilation_w == 1
                                        ? sums[kx]
                                        : tap1(grad, image + kx * s->dilation_w, s->out_h, s->out_w, down, s->stride_w);
                    to[kx] = (n ? 1.0f : decay) * to[kx] - lr * g;
                }
            }
        }
    }
}
