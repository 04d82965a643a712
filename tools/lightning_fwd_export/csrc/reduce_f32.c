/* Reductions over any set of dimensions, and softmax along one. */
#include <math.h>

#include "lfwd_float.h"

#define LFWD_FOR_KEPT                                       \
    for (int32_t i = 0; i < s->keep[0]; i++)                \
        for (int32_t j = 0; j < s->keep[1]; j++)            \
            for (int32_t k = 0; k < s->keep[2]; k++, out++)
#define LFWD_FROM (in + i * s->keep_stride[0] + j * s->keep_stride[1] + k * s->keep_stride[2])
#define LFWD_FOR_REDUCED(statement)                                                                             \
    for (int32_t a = 0; a < s->reduce[0]; a++)                                                                  \
        for (int32_t b = 0; b < s->reduce[1]; b++) {                                                            \
            int32_t at = a * s->reduce_stride[0] + b * s->reduce_stride[1];                                     \
            for (int32_t c = s->reduce[2], step = s->reduce_stride[2]; c > 0; c--, at += step) {                \
                statement;                                                                                      \
            }                                                                                                   \
        }

#define LFWD_REDUCE(name, type, result, start, step, finish)                       \
    void lfwd_##name(const type *in, const lfwd_reduction *s, result *out)          \
    {                                                                              \
        LFWD_FOR_KEPT                                                              \
        {                                                                          \
            const type *from = LFWD_FROM;                                          \
            result total = (start);                                                \
            LFWD_FOR_REDUCED(const type x = from[at]; total = (step))              \
            *out = (finish);                                                       \
        }                                                                          \
    }

LFWD_REDUCE(sum_f32, float, float, 0.0f, total + x, total)
LFWD_REDUCE(mean_f32, float, float, 0.0f, total + x, total / (float)(s->reduce[0] * s->reduce[1] * s->reduce[2]))
LFWD_REDUCE(amax_f32, float, float, -INFINITY, x > total || isnan(x) ? x : total, total)
LFWD_REDUCE(amin_f32, float, float, INFINITY, x < total || isnan(x) ? x : total, total)
LFWD_REDUCE(sum_i64, int64_t, int64_t, 0, total + x, total)
LFWD_REDUCE(sum_u8_i64, uint8_t, int64_t, 0, total + x, total)
LFWD_REDUCE(any_u8, uint8_t, uint8_t, 0, (uint8_t)(total || x), total)

void lfwd_var_f32(const float *in, const lfwd_reduction *s, float correction, float *out)
{
    const float count = (float)(s->reduce[0] * s->reduce[1] * s->reduce[2]);
    LFWD_FOR_KEPT
    {
        const float *from = LFWD_FROM;
        float sum = 0.0f, squares = 0.0f;
        LFWD_FOR_REDUCED(sum += from[at])
        const float mean = sum / count;
        LFWD_FOR_REDUCED(const float d = from[at] - mean; squares += d * d)
        *out = squares / (count - correction);
    }
}

void lfwd_argmax_f32(const float *in, lfwd_axis axis, int64_t *out)
{
    for (int32_t o = 0; o < axis.outer; o++)
        for (int32_t i = 0; i < axis.inner; i++) {
            const float *x = in + o * axis.dim * axis.inner + i;
            int32_t top = 0;
            for (int32_t d = 1; d < axis.dim; d++)
                if (x[d * axis.inner] > x[top * axis.inner]) top = d;
            *out++ = top;
        }
}

void lfwd_topk_f32(const float *in, lfwd_axis axis, int32_t k, float *values, int64_t *index)
{
    for (int32_t o = 0; o < axis.outer; o++)
        for (int32_t i = 0; i < axis.inner; i++) {
            const float *x = in + o * axis.dim * axis.inner + i;
            int32_t last = -1;
            for (int32_t j = 0; j < k; j++) {
                int32_t top = -1; /* the largest that comes after the last one; of equal values the first */
                for (int32_t d = 0; d < axis.dim; d++) {
                    const float v = x[d * axis.inner];
                    const int after = last < 0 || v < x[last * axis.inner] || (v == x[last * axis.inner] && d > last);
                    if (after && (top < 0 || v > x[top * axis.inner])) top = d;
                }
                last = top < 0 ? 0 : top; /* none is left only among NaN */
                values[(o * k + j) * axis.inner + i] = x[last * axis.inner];
                index[(o * k + j) * axis.inner + i] = last;
            }
        }
}

/* Subtracts the largest value first (no overflow); writes the shifted values to y and returns sum(exp(y)). */
static float shifted_exp_sum(const float *x, int32_t dim, int32_t step, float *y)
{
    float top = x[0], sum = 0.0f;
    for (int32_t d = 1; d < dim; d++) top = x[d * step] > top ? x[d * step] : top;
    for (int32_t d = 0; d < dim; d++) {
        y[d * step] = x[d * step] - top;
        sum += expf(y[d * step]);
    }
    return sum;
}

void lfwd_softmax_f32(const float *in, lfwd_axis axis, float *out)
{
    for (int32_t o = 0; o < axis.outer; o++)
        for (int32_t i = 0; i < axis.inner; i++) {
            const int32_t at = o * axis.dim * axis.inner + i;
            const float scale = 1.0f / shifted_exp_sum(in + at, axis.dim, axis.inner, out + at);
            for (int32_t d = 0; d < axis.dim; d++)
                out[at + d * axis.inner] = expf(out[at + d * axis.inner]) * scale;
        }
}

void lfwd_log_softmax_f32(const float *in, lfwd_axis axis, float *out)
{
    for (int32_t o = 0; o < axis.outer; o++)
        for (int32_t i = 0; i < axis.inner; i++) {
            const int32_t at = o * axis.dim * axis.inner + i;
            const float log_sum = logf(shifted_exp_sum(in + at, axis.dim, axis.inner, out + at));
            for (int32_t d = 0; d < axis.dim; d++) out[at + d * axis.inner] -= log_sum;
        }
}
