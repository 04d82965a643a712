/* Updates in place: state = decay * state - lr * gradient, with no gradient tensor ever in memory. */
#include "lfwd_block4.h"
#include "lfwd_float.h"

static void scale(float *state, int32_t count, float factor)
{
    if (factor == 1.0f) return;
    for (int32_t i = 0; i < count; i++) state[i] *= factor;
}

void lfwd_sgd_f32(float *state, const float *grad, int32_t count, float lr, float decay)
{
    for (int32_t i = 0; i < count; i++) state[i] = decay * state[i] - lr * grad[i];
}

void lfwd_sgd_part_f32(float *state, lfwd_axis axis, const float *grad, const int64_t *index, int32_t count, float lr,
                       float decay)
{
    for (int32_t o = 0; o < axis.outer; o++, state += axis.dim * axis.inner)
        for (int32_t k = 0; k < count; k++, grad += axis.inner)
            if (index[k] >= 0 && index[k] < axis.dim)
                lfwd_sgd_f32(state + (int32_t)index[k] * axis.inner, grad, axis.inner, lr, decay);
}

/* Two rows of the state take their multiple of x: every x is loaded once for both. */
static LFWD_APART void two_rows(float *restrict even, float *restrict odd, const float *restrict x, int32_t count, float s, float t)
{
#if LFWD_HELIUM_FLOAT
    for (; count >= 4; count -= 4, even += 4, odd += 4, x += 4) {
        const float32x4_t v = vld1q_f32(x);
        vst1q_f32(even, vfmaq_n_f32(vld1q_f32(even), v, s));
        vst1q_f32(odd, vfmaq_n_f32(vld1q_f32(odd), v, t));
    }
#else
    for (int32_t fours = count / 4; fours != 0; fours--, count -= 4) {
        LFWD_LOADED;
        LFWD_NEXT_LOW4(x);
        LFWD_HIGH4(even);
        y4 += s * y0, y5 += s * y1, y6 += s * y2, y7 += s * y3;
        LFWD_PUT_HIGH4(even);
        LFWD_HIGH4(odd);
        y4 += t * y0, y5 += t * y1, y6 += t * y2, y7 += t * y3;
        LFWD_PUT_HIGH4(odd);
        (void)u0, (void)u1;
    }
#endif
    for (; count > 0; count--, x++) *even++ += s * *x, *odd++ += t * *x;
}

static void rank_one(float *state, const float *grad, const float *x, int32_t out_features, int32_t in_features, float lr)
{
    int32_t o = 0;
    for (; o + 2 <= out_features; o += 2, state += 2 * in_features)
        two_rows(state, state + in_features, x, in_features, -lr * grad[o], -lr * grad[o + 1]);
    if (o < out_features)
        for (int32_t i = 0; i < in_features; i++) state[i] -= lr * grad[o] * x[i];
}

/* Four outputs by four inputs over all rows of the batch. */
static LFWD_APART void block(float *state, int32_t state_row, const float *grad, int32_t out_features, const float *x, int32_t in_features,
                         int32_t rows, float lr)
{
#if LFWD_HELIUM_FLOAT
    float32x4_t s0 = vdupq_n_f32(0.0f), s1 = s0, s2 = s0, s3 = s0;
    for (; rows > 0; rows--, grad += out_features, x += in_features) {
        const float32x4_t v = vld1q_f32(x);
        s0 = vfmaq_n_f32(s0, v, grad[0]);
        s1 = vfmaq_n_f32(s1, v, grad[1]);
        s2 = vfmaq_n_f32(s2, v, grad[2]);
        s3 = vfmaq_n_f32(s3, v, grad[3]);
    }
    vst1q_f32(state, vfmaq_n_f32(vld1q_f32(state), s0, -lr));
    vst1q_f32(state + state_row, vfmaq_n_f32(vld1q_f32(state + state_row), s1, -lr));
    vst1q_f32(state + 2 * state_row, vfmaq_n_f32(vld1q_f32(state + 2 * state_row), s2, -lr));
    vst1q_f32(state + 3 * state_row, vfmaq_n_f32(vld1q_f32(state + 3 * state_row), s3, -lr));
#else
    LFWD_SUMS(0.0f, 0.0f, 0.0f, 0.0f)
    for (; rows != 0; rows--, grad += out_features, x += in_features) {
        LFWD_OPAQUE(rows);
        LFWD_LOADED;
        LFWD_LOW4(grad);
        LFWD_HIGH4(x);
        LFWD_OUTER(y0, y1, y2, y3, y4, y5, y6, y7)
        (void)u0, (void)u1;
    }
    LFWD_UPDATE_ROWS(state, state_row, lr);
#endif
}

void lfwd_sgd_outer_f32(float *state, const float *grad, const float *x, int32_t rows, int32_t out_features,
                        int32_t in_features, float lr, float decay)
{
    scale(state, out_features * in_features, decay);
    if (rows == 1) {
        rank_one(state, grad, x, out_features, in_features, lr);
        return;
    }
    for (int32_t o = 0; o < out_features; o += 4)
        for (int32_t i = 0; i < in_features; i += 4) {
            float *to = state + o * in_features + i;
            if (o + 4 <= out_features && i + 4 <= in_features) {
                block(to, in_features, grad + o, out_features, x + i, in_features, rows, lr);
                continue;
            }
            for (int32_t r = 0; r < lfwd_least(out_features - o, 4); r++)
                for (int32_t c = 0; c < lfwd_least(in_features - i, 4); c++) {
                    float sum = 0.0f;
                    for (int32_t b = 0; b < rows; b++) sum += grad[b * out_features + o + r] * x[b * in_features + i + c];
                    to[r * in_features + c] -= lr * sum;
                }
        }
}
