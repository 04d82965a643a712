/* Normalisation with given (batch norm) or own (layer norm) statistics. */
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

void lfwd_layer_norm_f32(const float *x, const float *weight, const float *bias, int32_t rows, int32_t width, float eps,
                         float *out, float *mean, float *rstd)
{
    for (int32_t r = 0; r < rows; r++, x += width, out += width) {
        float sum = 0.0f, squares = 0.0f;
        for (int32_t i = 0; i < width; i++) sum += x[i];
        mean[r] = sum / (float)width;
        for (int32_t i = 0; i < width; i++) squares += (x[i] - mean[r]) * (x[i] - mean[r]);
        rstd[r] = 1.0f / sqrtf(squares / (float)width + eps);
        for (int32_t i = 0; i < width; i++)
            out[i] = (x[i] - mean[r]) * rstd[r] * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f);
    }
}
