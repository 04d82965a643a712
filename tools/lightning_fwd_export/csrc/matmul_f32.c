/* Matrix products. Four results share every load of the common operand; sums run in the order of k. */
#include "lfwd_float.h"

/* sums[j] = sum_k a[k * a_step] * b[k * b_row + j] for four neighbouring columns j */
static inline void dot4(const float *a, int32_t a_step, const float *b, int32_t b_row, int32_t k, float sums[4])
{
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    for (; k > 0; k--, a += a_step, b += b_row) {
        const float x = *a;
        s0 += x * b[0];
        s1 += x * b[1];
        s2 += x * b[2];
        s3 += x * b[3];
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

static inline float dot1(const float *a, int32_t a_step, const float *b, int32_t b_step, int32_t k)
{
    float sum = 0.0f;
    for (; k > 0; k--, a += a_step, b += b_step) sum += *a * *b;
    return sum;
}

void lfwd_mm_f32(const float *a, const float *b, int32_t m, int32_t k, int32_t n, float *out)
{
    for (int32_t i = 0; i < m; i++, a += k, out += n) {
        int32_t j = 0;
        for (; j + 4 <= n; j += 4) dot4(a, 1, b + j, n, k, out + j);
        for (; j < n; j++) out[j] = dot1(a, 1, b + j, n, k);
    }
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

void lfwd_linear_f32(const float *x, const float *weight, const float *bias, int32_t rows, int32_t in_features,
                     int32_t out_features, float *out)
{
    for (int32_t row = 0; row < rows; row++, x += in_features) {
        const float *w = weight;
        int32_t o = 0;
        for (; o + 4 <= out_features; o += 4, out += 4, w += 4 * in_features) {
            const float *w1 = w + in_features, *w2 = w1 + in_features, *w3 = w2 + in_features;
            float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
            for (int32_t i = 0; i < in_features; i++) {
                const float v = x[i];
                s0 += v * w[i];
                s1 += v * w1[i];
                s2 += v * w2[i];
                s3 += v * w3[i];
            }
            out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
        }
        for (; o < out_features; o++, w += in_features) *out++ = dot1(x, 1, w, 1, in_features);
        if (bias)
            for (o = 0; o < out_features; o++) out[o - out_features] += bias[o];
    }
}

void lfwd_sgd_outer_f32(float *state, const float *grad, const float *x, int32_t rows, int32_t out_features,
                        int32_t in_features, float lr, float decay)
{
    for (int32_t o = 0; o < out_features; o++, grad++, state += in_features) {
        int32_t i = 0;
        for (; i + 4 <= in_features; i += 4) {
            float g[4];
            dot4(grad, out_features, x + i, in_features, rows, g);
            for (int32_t j = 0; j < 4; j++) state[i + j] = decay * state[i + j] - lr * g[j];
        }
        for (; i < in_features; i++)
            state[i] = decay * state[i] - lr * dot1(grad, out_features, x + i, in_features, rows);
    }
}

void lfwd_sgd_part_f32(float *state, lfwd_axis axis, const float *grad, const int64_t *index, int32_t count, float lr,
                       float decay)
{
    for (int32_t o = 0; o < axis.outer; o++, state += axis.dim * axis.inner)
        for (int32_t k = 0; k < count; k++, grad += axis.inner)
            if (index[k] >= 0 && index[k] < axis.dim)
                lfwd_sgd_f32(state + (int32_t)index[k] * axis.inner, grad, axis.inner, lr, decay);
}

void lfwd_sgd_f32(float *state, const float *grad, int32_t count, float lr, float decay)
{
    for (int32_t i = 0; i < count; i++) state[i] = decay * state[i] - lr * grad[i];
}
