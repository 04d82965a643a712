/* Powers of two by a table (internal): lightning_fwd/integer/softmax.py. */
#ifndef LFWD_INTEGER_SOFTMAX_H
#define LFWD_INTEGER_SOFTMAX_H
#include "lfwd_integer.h"
#include "lfwd_shift.h"

/* exp(-distance * factor * 2^-exponent) in Q15; factor: mult * 2^-15 * 2^-below, times log2(e) * 32. */
static inline uint32_t lfwd_int_exponential(uint32_t distance, int32_t exponent, int32_t mult, int32_t below)
{
    /* 2^(-i / 32) in Q15 */
    static const uint16_t table[32] = {32768, 32066, 31379, 30706, 30048, 29405, 28774, 28158, 27554, 26964, 26386,
                                       25821, 25268, 24726, 24196, 23678, 23170, 22674, 22188, 21713, 21247, 20792,
                                       20347, 19911, 19484, 19066, 18658, 18258, 17867, 17484, 17109, 16743};
    const int32_t s = exponent + below + 15;
    const int64_t product = (int64_t)distance * mult;
    int64_t t = s > 0 ? (product + (((int64_t)1 << (s > 62 ? 62 : s)) >> 1)) >> (s > 62 ? 62 : s) : product << (s < -15 ? 15 : -s);
    t = t > 31 * 32 ? 31 * 32 : t;
    return (uint32_t)table[t & 31] >> (t >> 5);
}
#endif
