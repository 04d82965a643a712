/* Float convolution, NCHW, grouped, strided, dilated. */
#include "lfwd_float.h"

/* First and last+1 output column whose input column lies inside the image, for one tap. */
static inline int32_t first_column(int32_t offset, int32_t stride)
{
    return offset < 0 ? (-offset + stride - 1) / stride : 0;
}

static inline int32_t end_column(int32_t offset, int32_t stride, int32_t in_w, int32_t out_w)
{
    const int32_t end = in_w > offset ? (in_w - offset + stride - 1) / stride : 0;
    return end < out_w ? end : out_w;
}

/* One output pixel: taps outside the image are skipped. */
static float pixel(const float *x, const float *w, const lfwd_conv2d_shape *s, int32_t channels, int32_t top,
                   int32_t left)
{
    float sum = 0.0f;
    for (int32_t c = 0; c < channels; c++, x += s->in_h * s->in_w)
        for (int32_t ky = 0; ky < s->kernel_h; ky++, w += s->kernel_w) {
            const int32_t iy = top + ky * s->dilation_h;
            if (iy < 0 || iy >= s->in_h) continue;
            for (int32_t kx = 0; kx < s->kernel_w; kx++) {
                const int32_t ix = left + kx * s->dilation_w;
                if (ix >= 0 && ix < s->in_w) sum += w[kx] * x[iy * s->in_w + ix];
            }
        }
    return sum;
}

/* Four neighbouring output pixels whose columns all lie inside the image share every weight. */
static void pixels4(const float *x, const float *w, const lfwd_conv2d_shape *s, int32_t channels, int32_t top,
                    int32_t left, float sums[4])
{
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    const int32_t step = s->stride_w;
    for (int32_t c = 0; c < channels; c++, x += s->in_h * s->in_w)
        for (int32_t ky = 0; ky < s->kernel_h; ky++, w += s->kernel_w) {
            const int32_t iy = top + ky * s->dilation_h;
            if (iy < 0 || iy >= s->in_h) continue;
            const float *row = x + iy * s->in_w + left;
            for (int32_t kx = 0; kx < s->kernel_w; kx++, row += s->dilation_w) {
                const float v = w[kx];
                s0 += v * row[0];
                s1 += v * row[step];
                s2 += v * row[2 * step];
                s3 += v * row[3 * step];
            }
        }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

void lfwd_conv2d_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *out)
{
    const int32_t channels = s->in_c / s->groups, per_group = s->out_c / s->groups, image = s->in_h * s->in_w;
    const int32_t inside_from = first_column(-s->pad_w, s->stride_w);
    const int32_t inside_to = end_column((s->kernel_w - 1) * s->dilation_w - s->pad_w, s->stride_w, s->in_w, s->out_w);
    for (int32_t n = 0; n < s->batch; n++)
        for (int32_t o = 0; o < s->out_c; o++) {
            const float *from = x + (n * s->in_c + o / per_group * channels) * image;
            const float *w = weight + o * channels * s->kernel_h * s->kernel_w;
            const float start = bias ? bias[o] : 0.0f;
            for (int32_t y = 0; y < s->out_h; y++, out += s->out_w) {
                const int32_t top = y * s->stride_h - s->pad_h;
                for (int32_t i = 0; i < s->out_w;) {
                    const int32_t left = i * s->stride_w - s->pad_w;
                    if (i >= inside_from && i + 4 <= inside_to) {
                        pixels4(from, w, s, channels, top, left, out + i);
                        for (int32_t j = 0; j < 4; j++) out[i++] += start;
                    } else {
                        out[i++] = start + pixel(from, w, s, channels, top, left);
                    }
                }
            }
        }
}
