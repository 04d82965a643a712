/* PEPITA's modulated input with F made from its seed, and packed ReLU masks. */
#include "lfwd_float.h"
#include "lfwd_random.h"

void lfwd_modulate_from_seed_f32(const float *x, const float *error, int32_t batch, int32_t n_in, int32_t classes,
                                 int64_t seed, float bound, float *out)
{
    uint32_t counter = lfwd_hash32((uint32_t)(uint64_t)seed); /* entry (i, c) of F is draw i * classes + c */
    for (int32_t i = 0; i < n_in; i++) {
        for (int32_t b = 0; b < batch; b++) out[b * n_in + i] = 0.0f;
        for (int32_t c = 0; c < classes; c++) {
            const float uniform = (float)(lfwd_hash32(counter++) >> 8) * 0x1p-23f - 1.0f; /* exact: a multiple of 2^-23 */
            const float entry = uniform * bound;
            for (int32_t b = 0; b < batch; b++) out[b * n_in + i] += error[b * classes + c] * entry;
        }
        for (int32_t b = 0; b < batch; b++) out[b * n_in + i] += x[b * n_in + i];
    }
}

void lfwd_positive_bits_f32(const float *x, int32_t count, uint8_t *bits)
{
    for (int32_t i = 0; i < count; i += 8) {
        uint32_t byte = 0;
        for (int32_t k = 0; k < 8 && i + k < count; k++) byte |= (uint32_t)(x[i + k] > 0.0f) << k;
        *bits++ = (uint8_t)byte;
    }
}

void lfwd_where_bits_f32(const float *grad, const uint8_t *bits, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = bits[i >> 3] >> (i & 7) & 1 ? grad[i] : 0.0f;
}
