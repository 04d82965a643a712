/* Matrix products and linear layers. */
#include "lfwd_block4.h"
#include "lfwd_float.h"
#include "lfwd_products.h"

void lfwd_mm_f32(const float *a, const float *b, int32_t m, int32_t k, int32_t n, float *out)
{
    const lfwd_product p = {a, m, k, 1, k, 0, b, n, n, 0, out, n};
    lfwd_product_f32(&p);
}

void lfwd_addmm_f32(const float *bias, int32_t bias_row, int32_t bias_column, const float *a, const float *b, int32_t m,
                    int32_t k, int32_t n, float beta, float alpha, float *out)
{
    lfwd_mm_f32(a, b, m, k, n, out);
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < n; j++, out++) *out = beta * bias[i * bias_row + j * bias_column] + alpha * *out;
}

void lfwd_bmm_f32(const float *a, const float *b, int32_t batch, int32_t m, int32_t k, int32_t n, float *out)
{
    for (int32_t i = 0; i < batch; i++) lfwd_mm_f32(a + i * m * k, b + i * k * n, m, k, n, out + i * m * n);
}

#if LFWD_HELIUM_FLOAT
static inline float total(float32x4_t v)
{
    return vgetq_lane_f32(v, 0) + vgetq_lane_f32(v, 1) + vgetq_lane_f32(v, 2) + vgetq_lane_f32(v, 3);
}
#endif

/* One row of x against four rows of weights. */
static LFWD_APART void outputs4(const float *x, const float *w, int32_t left, int32_t in_features, float out[4])
{
    LFWD_FOUR(w, w, in_features, left)
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    int32_t i = in_features;
#if LFWD_HELIUM_FLOAT
    float32x4_t v0 = vdupq_n_f32(0.0f), v1 = v0, v2 = v0, v3 = v0;
    for (; i >= 4; i -= 4, x += 4, w0 += 4, w1 += 4, w2 += 4, w3 += 4) {
        const float32x4_t v = vld1q_f32(x);
        v0 = vfmaq_f32(v0, v, vld1q_f32(w0));
        v1 = vfmaq_f32(v1, v, vld1q_f32(w1));
        v2 = vfmaq_f32(v2, v, vld1q_f32(w2));
        v3 = vfmaq_f32(v3, v, vld1q_f32(w3));
    }
    s0 = total(v0), s1 = total(v1), s2 = total(v2), s3 = total(v3);
#else
#define FOUR_OF_ROW(s, w)    \
    LFWD_NEXT_HIGH4(w);      \
    s += y0 * y4, s += y1 * y5, s += y2 * y6, s += y3 * y7;
    for (int32_t fours = i >> 2; fours != 0; fours--) {
        LFWD_OPAQUE(fours);
        LFWD_LOADED;
        LFWD_NEXT_LOW4(x);
        FOUR_OF_ROW(s0, w0) FOUR_OF_ROW(s1, w1) FOUR_OF_ROW(s2, w2) FOUR_OF_ROW(s3, w3)
        (void)u0, (void)u1;
    }
    i &= 3;
#endif
    for (; i != 0; i--) {
        LFWD_OPAQUE(i);
        const float v = *x++;
        s0 += v * *w0++;
        s1 += v * *w1++;
        s2 += v * *w2++;
        s3 += v * *w3++;
    }
    out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
}

/* Outputs from `first` on of one row. */
static void outputs(const float *x, const float *weight, const float *bias, int32_t first, int32_t in_features, int32_t out_features,
                    float *out)
{
    for (int32_t o = first; o < out_features; o += 4) {
        const int32_t left = lfwd_least(out_features - o, 4);
        float sums[4];
        outputs4(x, weight + o * in_features, left, in_features, sums);
        for (int32_t r = 0; r < left; r++) out[o + r] = sums[r] + (bias ? bias[o + r] : 0.0f);
    }
}

#if !LFWD_HELIUM_FLOAT
#define PUT_ROW(to, b0, b1, b2, b3) (to)[0] = b0, (to)[1] = b1, (to)[2] = b2, (to)[3] = b3;

/* Four rows of x against four rows of weights. */
static LFWD_APART void block(const float *x0, const float *w0, int32_t in_features, const float bias[4], int32_t out_features, float *to)
{
    LFWD_THREE_MORE(x, in_features, 4)
    LFWD_THREE_MORE(w, in_features, 4)
    LFWD_SUMS(0.0f, 0.0f, 0.0f, 0.0f)
    for (int32_t i = in_features >> 1; i != 0; i--) {
        LFWD_OPAQUE(i);
        LFWD_TWO_STEPS_OF_PAIRS(x0, x1, x2, x3, w0, w1, w2, w3);
    }
    if (in_features & 1) LFWD_STEP(*x0, *x1, *x2, *x3, *w0, *w1, *w2, *w3);
#define PUT_BIASED(to, s0, s1, s2, s3) PUT_ROW(to, s0 + bias[0], s1 + bias[1], s2 + bias[2], s3 + bias[3])
    LFWD_ROWS(PUT_BIASED, to, out_features)
}
#endif

void lfwd_linear_f32(const float *x, const float *weight, const float *bias, int32_t rows, int32_t in_features,
                     int32_t out_features, float *out)
{
    int32_t row = 0;
#if !LFWD_HELIUM_FLOAT
    static const float zeros[4];
    const int32_t whole = out_features & ~3;
    for (; row + 4 <= rows; row += 4, x += 4 * in_features, out += 4 * out_features) {
        for (int32_t o = 0; o < whole; o += 4)
            block(x, weight + o * in_features, in_features, bias ? bias + o : zeros, out_features, out + o);
        if (whole < out_features) /* the last one to three outputs */
            for (int32_t r = 0; r < 4; r++) outputs(x + r * in_features, weight, bias, whole, in_features, out_features, out + r * out_features);
    }
#endif
    for (; row < rows; row++, x += in_features, out += out_features) outputs(x, weight, bias, 0, in_features, out_features, out);
}
