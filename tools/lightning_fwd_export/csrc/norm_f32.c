/* Normalisation with given (batch norm) or own (layer and group norm) statistics. */
#include <math.h>

#include "lfwd_float.h"

void lfwd_batch_norm_f32(const float *x, const float *weight, const float *bias, const float *mean, const float *var,
                         float eps, lfwd_axis axis, float *out)
{
    for (int32_t n = 0; n < axis.outer; n++)
        for (int32_t c = 0; c < axis.dim; c++) {
            const float scale = (weight ? weight[c] : 1.0f) / sqrtf(var[c] + eps);
            const float shift = (bias ? bias[c] : 0.0f) - mean[c] * scale;
            for (int32_t i = 0; i < axis.inner; i++) *out++ = *x++ * scale + shift;
        }
}

static void statistics(const float *x, int32_t count, float eps, float *mean, float *rstd)
{
    float sum = 0.0f, squares = 0.0f;
    for (int32_t i = 0; i < count; i++) sum += x[i];
    *mean = sum / (float)count;
    for (int32_t i = 0; i < count; i++) squares += (x[i] - *mean) * (x[i] - *mean);
    *rstd = 1.0f / sqrtf(squares / (float)count + eps);
}

void lfwd_layer_norm_f32(const float *x, const float *weight, const float *bias, int32_t rows, int32_t width, float eps,
                         float *out, float *mean, float *rstd)
{
    for (int32_t r = 0; r < rows; r++, x += width, out += width) {
        statistics(x, width, eps, &mean[r], &rstd[r]);
        for (int32_t i = 0; i < width; i++)
            out[i] = (x[i] - mean[r]) * rstd[r] * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f);
    }
}

void lfwd_group_norm_f32(const float *x, const float *weight, const float *bias, lfwd_axis axis, int32_t groups, float eps,
                         float *out, float *mean, float *rstd)
{
    const int32_t channels = axis.dim / groups;
    for (int32_t g = 0; g < axis.outer * groups; g++) {
        statistics(x, channels * axis.inner, eps, &mean[g], &rstd[g]);
        for (int32_t c = g % groups * channels; c < (g % groups + 1) * channels; c++)
            for (int32_t i = 0; i < axis.inner; i++)
                *out++ = (*x++ - mean[g]) * rstd[g] * (weight ? weight[c] : 1.0f) + (bias ? bias[c] : 0.0f);
    }
}
