/* The gradient of a float depthwise convolution of 3 x 3 with stride 2 to its input, two rows of four pairs of neighbours at a time. With
 * one row of padding, p a row of the output's gradient and q the next one, g its columns and h the next ones:
 *
 *     row 2 y:      w11 pg                     w12 pg + w10 ph
 *     row 2 y + 1:  w21 pg + w01 qg            w22 pg + w20 ph + w02 qg + w00 qh
 *
 * Without padding the pairs begin one position earlier: rows change places, and columns do. */
#include "lfwd_depthwise.h"

/* Four pairs of columns: `one` from a single row of taps, `two` from the rows above and below. */
static LFWD_INLINE void one_row(const float *p, const float *w, float *to, const int32_t padded)
{
    const float w0 = w[0], w1 = w[1], w2 = w[2];
#if LFWD_HELIUM_FLOAT
    const float32x4_t g = vld1q_f32(p), h = vld1q_f32(p + 1), both = vfmaq_n_f32(vmulq_n_f32(g, w2), h, w0);
    float32x4x2_t pairs;
    pairs.val[0] = padded ? vmulq_n_f32(g, w1) : both;
    pairs.val[1] = padded ? both : vmulq_n_f32(h, w1);
    vst2q_f32(to, pairs);
#else
    const float g0 = p[0], g1 = p[1], g2 = p[2], g3 = p[3], g4 = p[4];
    if (padded) {
        to[0] = w1 * g0, to[2] = w1 * g1, to[4] = w1 * g2, to[6] = w1 * g3, to++;
    } else {
        to[1] = w1 * g1, to[3] = w1 * g2, to[5] = w1 * g3, to[7] = w1 * g4;
    }
    to[0] = w2 * g0 + w0 * g1, to[2] = w2 * g1 + w0 * g2, to[4] = w2 * g2 + w0 * g3, to[6] = w2 * g3 + w0 * g4;
#endif
}

static LFWD_INLINE void two_rows(const float *p, const float *q, const float *w, float *to, const int32_t padded)
{
    const float w0 = w[0], w1 = w[1], w2 = w[2], v0 = w[6], v1 = w[7], v2 = w[8];
#if LFWD_HELIUM_FLOAT
    const float32x4_t g = vld1q_f32(p), h = vld1q_f32(p + 1), below_g = vld1q_f32(q), below_h = vld1q_f32(q + 1);
    const float32x4_t both = vfmaq_n_f32(vfmaq_n_f32(vfmaq_n_f32(vmulq_n_f32(g, v2), h, v0), below_g, w2), below_h, w0);
    const float32x4_t single = padded ? vfmaq_n_f32(vmulq_n_f32(g, v1), below_g, w1) : vfmaq_n_f32(vmulq_n_f32(h, v1), below_h, w1);
    float32x4x2_t pairs;
    pairs.val[0] = padded ? single : both;
    pairs.val[1] = padded ? both : single;
    vst2q_f32(to, pairs);
#else
    const float g0 = p[0], g1 = p[1], g2 = p[2], g3 = p[3], g4 = p[4], h0 = q[0], h1 = q[1], h2 = q[2], h3 = q[3], h4 = q[4];
    if (padded) {
        to[0] = v1 * g0 + w1 * h0, to[2] = v1 * g1 + w1 * h1, to[4] = v1 * g2 + w1 * h2, to[6] = v1 * g3 + w1 * h3, to++;
    } else {
        to[1] = v1 * g1 + w1 * h1, to[3] = v1 * g2 + w1 * h2, to[5] = v1 * g3 + w1 * h3, to[7] = v1 * g4 + w1 * h4;
    }
    to[0] = v2 * g0 + v0 * g1 + w2 * h0 + w0 * h1, to[2] = v2 * g1 + v0 * g2 + w2 * h1 + w0 * h2;
    to[4] = v2 * g2 + v0 * g3 + w2 * h2 + w0 * h3, to[6] = v2 * g3 + v0 * g4 + w2 * h3 + w0 * h4;
#endif
}

static LFWD_INLINE void plane(const float *row, int32_t width, const float *w, const lfwd_conv2d_shape *s, float *out, const int32_t padded)
{
    const int32_t in_w = s->in_w;
    for (int32_t y = 0; y < s->in_h; y += 2, row += width, out += 2 * in_w) {
        const int32_t last = y + 1 == s->in_h;
        const float *p = row, *q = last && padded ? row : row + width; /* a row that is not there is not read */
        for (int32_t x = 0; x < in_w; x += 8, p += 4, q += 4) {
            float spare[2][8];
            const int32_t count = lfwd_least(in_w - x, 8);
            float *first = count < 8 ? spare[0] : out + x, *second = count < 8 || last ? spare[1] : out + in_w + x;
            if (padded) {
                one_row(p, w + 3, first, padded);
                two_rows(p, q, w, second, padded);
            } else {
                two_rows(p, q, w, first, padded);
                one_row(q, w + 3, second, padded);
            }
            if (count < 8)
                for (int32_t k = 0; k < count; k++) {
                    out[x + k] = spare[0][k];
                    if (!last) out[in_w + x + k] = spare[1][k];
                }
        }
    }
}

static LFWD_APART void plane_padded(const float *row, int32_t width, const float *w, const lfwd_conv2d_shape *s, float *out)
{
    plane(row, width, w, s, out, 1);
}

static LFWD_APART void plane_bare(const float *row, int32_t width, const float *w, const lfwd_conv2d_shape *s, float *out)
{
    plane(row, width, w, s, out, 0);
}

void lfwd_depthwise_doubled_f32(const float *padded, int32_t width, const float *w, const lfwd_conv2d_shape *s, float *out)
{
    if (s->pad_h == 1)
        plane_padded(padded + width + 1, width, w, s, out);
    else
        plane_bare(padded, width, w, s, out);
}
