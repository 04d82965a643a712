/* One-operand elementwise operators over contiguous tensors; in and out may be the same. */
#include <math.h>

#include "lfwd_float.h"

#define LFWD_UNARY(name, expression)                                     \
    void lfwd_##name##_f32(const float *in, int32_t count, float *out)   \
    {                                                                    \
        for (int32_t i = 0; i < count; i++) {                            \
            const float x = in[i];                                       \
            out[i] = (expression);                                       \
        }                                                                \
    }

LFWD_UNARY(relu, x < 0.0f ? 0.0f : x) /* NaN stays NaN */
LFWD_UNARY(neg, -x)
LFWD_UNARY(abs, fabsf(x))
LFWD_UNARY(exp, expf(x))
LFWD_UNARY(expm1, expm1f(x))
LFWD_UNARY(log, logf(x))
LFWD_UNARY(log1p, log1pf(x))
LFWD_UNARY(sqrt, sqrtf(x))
LFWD_UNARY(rsqrt, 1.0f / sqrtf(x))
LFWD_UNARY(reciprocal, 1.0f / x)
LFWD_UNARY(sigmoid, 1.0f / (1.0f + expf(-x)))
LFWD_UNARY(tanh, tanhf(x))
LFWD_UNARY(sign, (float)(x > 0.0f) - (float)(x < 0.0f))
LFWD_UNARY(erf, erff(x))
LFWD_UNARY(sin, sinf(x))
LFWD_UNARY(cos, cosf(x))
LFWD_UNARY(ceil, ceilf(x))
LFWD_UNARY(floor, floorf(x))
LFWD_UNARY(gelu, 0.5f * x * (1.0f + erff(x * 0.70710678f)))
LFWD_UNARY(gelu_tanh, 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x))))

void lfwd_elu_f32(const float *in, int32_t count, float alpha, float scale, float input_scale, float *out)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = in[i] > 0.0f ? scale * in[i] : scale * alpha * expm1f(input_scale * in[i]);
}

void lfwd_clamp_f32(const float *in, int32_t count, float low, float high, float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = in[i] < low ? low : in[i] > high ? high : in[i];
}

void lfwd_leaky_relu_f32(const float *in, int32_t count, float slope, float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = in[i] > 0.0f ? in[i] : slope * in[i];
}

void lfwd_logical_not_u8(const uint8_t *in, int32_t count, uint8_t *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = !in[i];
}

void lfwd_relu_backward_f32(const float *grad, const float *relu_out, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = relu_out[i] > 0.0f ? grad[i] : 0.0f;
}
