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

/* Four rows of the state take their multiple of x: every x is loaded once for all of them. */
static LFWD_APART void four_rows(float *w0, int32_t row, const float *x, int32_t count, const float s[4])
{
    float *w1 = w0 + row, *w2 = w1 + row, *w3 = w2 + row;
    const float t0 = s[0], t1 = s[1], t2 = s[2], t3 = s[3];
#if LFWD_HELIUM_FLOAT
    for (; count >= 4; count -= 4, w0 += 4, w1 += 4, w2 += 4, w3 += 4, x += 4) {
        const float32x4_t v = vld1q_f32(x);
        vst1q_f32(w0, vfmaq_n_f32(vld1q_f32(w0), v, t0));
        vst1q_f32(w1, vfmaq_n_f32(vld1q_f32(w1), v, t1));
        vst1q_f32(w2, vfmaq_n_f32(vld1q_f32(w2), v, t2));
        vst1q_f32(w3, vfmaq_n_f32(vld1q_f32(w3), v, t3));
    }
#else
#define FOUR_OF_ROW(w, t) \
    LFWD_HIGH4(w);        \
    y4 += t * y0, y5 += t * y1, y6 += t * y2, y7 += t * y3; \
    LFWD_PUT_HIGH4(w);
    for (int32_t fours = count >> 2; fours != 0; fours--) {
        LFWD_OPAQUE(fours);
        LFWD_LOADED;
        LFWD_NEXT_LOW4(x);
        FOUR_OF_ROW(w0, t0) FOUR_OF_ROW(w1, t1) FOUR_OF_ROW(w2, t2) FOUR_OF_ROW(w3, t3)
        (void)u0, (void)u1;
    }
    count &= 3;
#endif
    for (; count > 0; count--, x++) *w0++ += t0 * *x, *w1++ += t1 * *x, *w2++ += t2 * *x, *w3++ += t3 * *x;
}

static void rank_one(float *state, const float *grad, const float *x, int32_t out_features, int32_t in_features, float lr)
{
    int32_t o = 0;
    for (; o + 4 <= out_features; o += 4, state += 4 * in_features) {
        const float s[4] = {-lr * grad[o], -lr * grad[o + 1], -lr * grad[o + 2], -lr * grad[o + 3]};
        four_rows(state, in_features, x, in_features, s);
    }
    for (; o < out_features; o++, state += in_features) lfwd_add_multiple(state, x, 1, in_features, -lr * grad[o]);
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
