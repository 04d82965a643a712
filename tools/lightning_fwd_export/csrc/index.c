/* Gather, scatter and select by class index. An index outside the dimension reads as zero and writes nothing, so a bad
 * label from a sensor cannot reach memory it does not own. */
#include <string.h>

#include "lfwd_float.h"

/* Runs `statement` with `at` = position in index/source and `there` = position in the indexed tensor, `inside` = valid. */
#define LFWD_FOR_INDEX(statement)                                                                         \
    for (int32_t o = 0; o < axis.outer; o++)                                                              \
        for (int32_t d = 0; d < index_dim; d++)                                                           \
            for (int32_t i = 0; i < axis.inner; i++) {                                                    \
                const int32_t at = (o * index_dim + d) * axis.inner + i;                                  \
                const int inside = index[at] >= 0 && index[at] < axis.dim;                                \
                const int32_t there = inside ? (o * axis.dim + (int32_t)index[at]) * axis.inner + i : 0;  \
                statement;                                                                                \
            }

#define LFWD_GATHER(suffix, type)                                                                                  \
    void lfwd_gather_##suffix(const type *in, lfwd_axis axis, const int64_t *index, int32_t index_dim, type *out)  \
    {                                                                                                              \
        LFWD_FOR_INDEX(out[at] = inside ? in[there] : (type)0)                                                     \
    }                                                                                                              \
    void lfwd_scatter_value_##suffix(const type *in, lfwd_axis axis, const int64_t *index, int32_t index_dim,      \
                                     type value, type *out)                                                        \
    {                                                                                                              \
        if (out != in) memcpy(out, in, (size_t)(axis.outer * axis.dim * axis.inner) * sizeof *out);                \
        LFWD_FOR_INDEX(if (inside) out[there] = value)                                                             \
    }                                                                                                              \
    void lfwd_index_select_##suffix(const type *in, lfwd_axis axis, const int64_t *index, int32_t count, type *out) \
    {                                                                                                              \
        for (int32_t o = 0; o < axis.outer; o++)                                                                   \
            for (int32_t d = 0; d < count; d++, out += axis.inner) {                                               \
                const size_t bytes = (size_t)axis.inner * sizeof *out;                                             \
                if (index[d] >= 0 && index[d] < axis.dim)                                                          \
                    memcpy(out, in + (o * axis.dim + (int32_t)index[d]) * axis.inner, bytes);                      \
                else                                                                                               \
                    memset(out, 0, bytes);                                                                         \
            }                                                                                                      \
    }
LFWD_GATHER(f32, float)
LFWD_GATHER(i64, int64_t)
LFWD_GATHER(s8, int8_t)

void lfwd_scatter_f32(const float *in, lfwd_axis axis, const int64_t *index, int32_t index_dim, const float *source,
                      float *out)
{
    if (out != in) memcpy(out, in, (size_t)(axis.outer * axis.dim * axis.inner) * sizeof *out);
    LFWD_FOR_INDEX(if (inside) out[there] = source[at])
}

void lfwd_scatter_add_f32(const float *in, lfwd_axis axis, const int64_t *index, int32_t index_dim,
                          const float *source, float *out)
{
    if (out != in) memcpy(out, in, (size_t)(axis.outer * axis.dim * axis.inner) * sizeof *out);
    LFWD_FOR_INDEX(if (inside) out[there] += source[at])
}
