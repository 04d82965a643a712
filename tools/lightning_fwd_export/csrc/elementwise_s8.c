/* Int8 addition, multiplication, extrema, clamping, lookup, quantisation, padding and softmax. */
#include <math.h>
#include <string.h>

#include "lfwd_requantize.h"

/* Headroom that keeps the sum of two rescaled operands exact (CMSIS-NN uses the same 20 bits for int8). */
#define ADD_LEFT_SHIFT 20

void lfwd_add_s8(const lfwd_add_s8_params *p, const int8_t *a, const int8_t *b, int32_t count, int8_t *out)
{
    int32_t i = 0;
#if LFWD_MVE
    if (p->a_shift <= 0 && p->b_shift <= 0 && p->out_shift <= 0) {
        const int32x4_t am = vdupq_n_s32(p->a_multiplier), as = vdupq_n_s32(p->a_shift);
        const int32x4_t bm = vdupq_n_s32(p->b_multiplier), bs = vdupq_n_s32(p->b_shift);
        const int32x4_t om = vdupq_n_s32(p->out_multiplier), os = vdupq_n_s32(p->out_shift);
        for (; i < count; i += 4) {
            const mve_pred16_t valid = vctp32q((uint32_t)(count - i));
            int32x4_t av = vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(a + i, valid), p->a_zero_point), ADD_LEFT_SHIFT);
            int32x4_t bv = vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(b + i, valid), p->b_zero_point), ADD_LEFT_SHIFT);
            int32x4_t sum = vaddq_s32(lfwd_requantize_x4(av, am, as), lfwd_requantize_x4(bv, bm, bs));
            sum = vaddq_n_s32(lfwd_requantize_x4(sum, om, os), p->out_zero_point);
            sum = vminq_s32(vmaxq_s32(sum, vdupq_n_s32(p->act_min)), vdupq_n_s32(p->act_max));
            vstrbq_p_s32(out + i, sum, valid);
        }
        return;
    }
#endif
    for (; i < count; i++) {
        const int32_t av = (a[i] - p->a_zero_point) * (1 << ADD_LEFT_SHIFT);
        const int32_t bv = (b[i] - p->b_zero_point) * (1 << ADD_LEFT_SHIFT);
        const int32_t sum =
            lfwd_requantize(av, p->a_multiplier, p->a_shift) + lfwd_requantize(bv, p->b_multiplier, p->b_shift);
        out[i] = lfwd_requantize_s8(sum, p->out_multiplier, p->out_shift, p->out_zero_point, p->act_min, p->act_max);
    }
}

void lfwd_mul_s8(const int8_t *a, int32_t a_zero_point, const int8_t *b, int32_t b_zero_point, int32_t out_zero_point,
                 int32_t multiplier, int32_t shift, int32_t count, int8_t *out)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = lfwd_requantize_s8((a[i] - a_zero_point) * (b[i] - b_zero_point), multiplier, shift, out_zero_point,
                                    INT8_MIN, INT8_MAX);
}

void lfwd_maximum_s8(const int8_t *a, const int8_t *b, int32_t count, int8_t *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = a[i] > b[i] ? a[i] : b[i];
}

void lfwd_minimum_s8(const int8_t *a, const int8_t *b, int32_t count, int8_t *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = a[i] < b[i] ? a[i] : b[i];
}

void lfwd_clamp_s8(const int8_t *input, int32_t count, int32_t low, int32_t high, int8_t *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = (int8_t)lfwd_clamp(input[i], low, high);
}

void lfwd_lookup_s8(const int8_t *input, const int8_t *table, int32_t count, int8_t *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = table[input[i] + 128];
}

void lfwd_pad_s8(const int8_t *input, const int32_t size[4], const int32_t before[4], const int32_t after[4],
                 int8_t value, int8_t *output)
{
    const int32_t row = before[3] + size[3] + after[3];
    for (int32_t n = -before[0]; n < size[0] + after[0]; n++)
        for (int32_t y = -before[1]; y < size[1] + after[1]; y++)
            for (int32_t x = -before[2]; x < size[2] + after[2]; x++, output += row) {
                memset(output, value, (size_t)row);
                if (n >= 0 && n < size[0] && y >= 0 && y < size[1] && x >= 0 && x < size[2])
                    memcpy(output + before[3], input + ((n * size[1] + y) * size[2] + x) * size[3], (size_t)size[3]);
            }
}

void lfwd_quantize_s8(const float *input, int32_t count, float scale, int32_t zero_point, int32_t q_min, int32_t q_max,
                      int8_t *output)
{
    const float per_scale = 1.0f / scale, low = (float)(q_min - zero_point), high = (float)(q_max - zero_point);
    for (int32_t i = 0; i < count; i++) {
        const float steps = nearbyintf(input[i] * per_scale); /* half to even, as PyTorch */
        const float inside = steps > low ? (steps < high ? steps : high) : low; /* NaN ends at q_min */
        output[i] = (int8_t)((int32_t)inside + zero_point);
    }
}

void lfwd_dequantize_s8(const int8_t *input, int32_t count, float scale, int32_t zero_point, float *output)
{
    for (int32_t i = 0; i < count; i++) output[i] = (float)(input[i] - zero_point) * scale;
}

void lfwd_softmax_s8(const int8_t *input, int32_t rows, int32_t columns, float input_scale, int8_t *output)
{
    for (int32_t row = 0; row < rows; row++, input += columns, output += columns) {
        int8_t top = input[0];
        for (int32_t i = 1; i < columns; i++) top = input[i] > top ? input[i] : top;
        float sum = 0.0f;
        for (int32_t i = 0; i < columns; i++) sum += expf((float)(input[i] - top) * input_scale);
        for (int32_t i = 0; i < columns; i++) {
            const float q = nearbyintf(expf((float)(input[i] - top) * input_scale) / sum * 256.0f) - 128.0f;
            output[i] = (int8_t)lfwd_clamp((int32_t)q, INT8_MIN, INT8_MAX);
        }
    }
}
