/* Two- and three-operand elementwise operators with broadcasting over at most four collapsed dimensions. */
#include <math.h>

#include "lfwd_float.h"

/* Runs `statement` for every element, ia and ib the first two operands' indices. What the innermost loop reads is copied: a store may change
 * anything else, for all that the compiler knows. */
#define LFWD_FOR_EACH(statement)                                                                                  \
    for (int32_t i = 0; i < s->size[0]; i++)                                                                      \
        for (int32_t j = 0; j < s->size[1]; j++)                                                                  \
            for (int32_t k = 0; k < s->size[2]; k++) {                                                            \
                int32_t ia = i * s->stride[0][0] + j * s->stride[0][1] + k * s->stride[0][2];                     \
                int32_t ib = i * s->stride[1][0] + j * s->stride[1][1] + k * s->stride[1][2];                     \
                const int32_t last = s->size[3], step_a = s->stride[0][3], step_b = s->stride[1][3];              \
                for (int32_t l = 0; l < last; l++, ia += step_a, ib += step_b, out++) {                           \
                    statement;                                                                                    \
                }                                                                                                 \
            }

#define LFWD_BINARY(name, type, result, expression)                                       \
    void lfwd_##name(const type *a, const type *b, const lfwd_broadcast *s, result *out)   \
    {                                                                                     \
        LFWD_FOR_EACH(const type u = a[ia]; const type v = b[ib]; *out = (result)(expression)) \
    }

LFWD_BINARY(add_f32, float, float, u + v)
LFWD_BINARY(sub_f32, float, float, u - v)
LFWD_BINARY(mul_f32, float, float, u *v)
LFWD_BINARY(div_f32, float, float, u / v)
LFWD_BINARY(maximum_f32, float, float, u > v || isnan(u) ? u : v) /* NaN propagates, as in PyTorch */
LFWD_BINARY(minimum_f32, float, float, u < v || isnan(u) ? u : v)
LFWD_BINARY(fmod_f32, float, float, fmodf(u, v))
LFWD_BINARY(pow_f32, float, float, v == 2.0f ? u * u : powf(u, v))
/* Integers wrap around, as in PyTorch (the hash behind every random number of a step relies on it). */
LFWD_BINARY(add_i64, int64_t, int64_t, (uint64_t)u + (uint64_t)v)
LFWD_BINARY(sub_i64, int64_t, int64_t, (uint64_t)u - (uint64_t)v)
LFWD_BINARY(mul_i64, int64_t, int64_t, (uint64_t)u *(uint64_t)v)
LFWD_BINARY(bitwise_and_i64, int64_t, int64_t, u &v)
LFWD_BINARY(bitwise_or_i64, int64_t, int64_t, u | v)
LFWD_BINARY(bitwise_xor_i64, int64_t, int64_t, u ^ v)
LFWD_BINARY(shift_left_i64, int64_t, int64_t, v >= 0 && v < 64 ? (uint64_t)u << v : 0)
LFWD_BINARY(shift_right_i64, int64_t, int64_t, u >> (v >= 0 && v < 64 ? v : 63))
LFWD_BINARY(fmod_i64, int64_t, int64_t, v == 0 || v == -1 ? 0 : u % v)
LFWD_BINARY(remainder_i64, int64_t, int64_t, v == 0 || v == -1 ? 0 : (u % v + v) % v)
LFWD_BINARY(logical_and_u8, uint8_t, uint8_t, u && v)
LFWD_BINARY(logical_or_u8, uint8_t, uint8_t, u || v)
LFWD_BINARY(logical_xor_u8, uint8_t, uint8_t, !u != !v)

#define LFWD_COMPARE(name, operator)                  \
    LFWD_BINARY(name##_f32, float, uint8_t, u operator v) \
    LFWD_BINARY(name##_i64, int64_t, uint8_t, u operator v)
LFWD_COMPARE(eq, ==)
LFWD_COMPARE(ne, !=)
LFWD_COMPARE(gt, >)
LFWD_COMPARE(ge, >=)
LFWD_COMPARE(lt, <)
LFWD_COMPARE(le, <=)

void lfwd_add_scaled_f32(const float *a, const float *b, float alpha, const lfwd_broadcast *s, float *out)
{
    LFWD_FOR_EACH(*out = a[ia] + alpha * b[ib])
}

/* Operands of LFWD_FOR_EACH are condition and a; b follows with its own stride. */
#define LFWD_WHERE(type, name)                                                                                    \
    void name(const uint8_t *condition, const type *a, const type *b, const lfwd_broadcast *s, type *out)         \
    {                                                                                                             \
        LFWD_FOR_EACH(const int32_t ic = i * s->stride[2][0] + j * s->stride[2][1] + k * s->stride[2][2] +        \
                                         l * s->stride[2][3];                                                     \
                      *out = condition[ia] ? a[ib] : b[ic])                                                       \
    }
LFWD_WHERE(float, lfwd_where_f32)
LFWD_WHERE(int64_t, lfwd_where_i64)
