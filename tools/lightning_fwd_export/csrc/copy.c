/* Moving, filling and casting: everything the views, permutations and concatenations of a program become. */
#include <string.h>

#include "lfwd_float.h"

#define LFWD_COPY(type)                                                                                 \
    static void copy_##type(const type *in, const lfwd_strides *s, type *out)                           \
    {                                                                                                   \
        for (int32_t i = 0; i < s->size[0]; i++)                                                        \
            for (int32_t j = 0; j < s->size[1]; j++)                                                    \
                for (int32_t k = 0; k < s->size[2]; k++) {                                              \
                    const type *from = in + i * s->in[0] + j * s->in[1] + k * s->in[2];                 \
                    type *to = out + i * s->out[0] + j * s->out[1] + k * s->out[2];                     \
                    const int32_t step_in = s->in[3], step_out = s->out[3];                             \
                    for (int32_t l = s->size[3]; l > 0; l--, from += step_in, to += step_out) *to = *from; \
                }                                                                                       \
    }
LFWD_COPY(uint8_t)
LFWD_COPY(uint16_t)
LFWD_COPY(uint32_t)
LFWD_COPY(uint64_t)

void lfwd_copy_strided(const void *in, const lfwd_strides *s, int32_t element, void *out)
{
    if (element == 1)
        copy_uint8_t(in, s, out);
    else if (element == 2)
        copy_uint16_t(in, s, out);
    else if (element == 4)
        copy_uint32_t(in, s, out);
    else
        copy_uint64_t(in, s, out);
}

void lfwd_fill_f32(float value, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = value;
}

void lfwd_fill_i64(int64_t value, int32_t count, int64_t *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = value;
}

void lfwd_arange_i64(int64_t start, int64_t step, int32_t count, int64_t *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = start + step * i;
}

void lfwd_arange_f32(float start, float step, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = start + step * (float)i;
}

#define LFWD_CAST(from, from_type, to, to_type, expression)                                    \
    void lfwd_cast_##from##_##to(const from_type *in, int32_t count, to_type *out)             \
    {                                                                                          \
        for (int32_t i = 0; i < count; i++) {                                                  \
            const from_type x = in[i];                                                         \
            out[i] = (expression);                                                             \
        }                                                                                      \
    }
LFWD_CAST(u8, uint8_t, f32, float, (float)x)
LFWD_CAST(i64, int64_t, f32, float, (float)x)
LFWD_CAST(i32, int32_t, f32, float, (float)x)
LFWD_CAST(s8, int8_t, f32, float, (float)x)
LFWD_CAST(u8, uint8_t, i64, int64_t, x)
LFWD_CAST(i64, int64_t, u8, uint8_t, x != 0)
LFWD_CAST(f32, float, u8, uint8_t, x != 0.0f)
/* Beyond 2^62 (and for NaN) C leaves the conversion undefined; a class index is never there. */
LFWD_CAST(f32, float, i64, int64_t, x > -4.6e18f && x < 4.6e18f ? (int64_t)x : 0)
