/* The instructions the DSP bodies use (Armv7E-M: Cortex-M4, M7), and requantisation by them. */
#ifndef LFWD_DSP_H
#define LFWD_DSP_H
#include <stdint.h>
#include <string.h>

#include "lfwd_int8.h"
#if LFWD_DSP
static inline uint32_t lfwd_load4(const int8_t *p) /* four bytes, any alignment */
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}
static inline uint32_t lfwd_even(uint32_t x) /* bytes 0 and 2, sign-extended to halfwords */
{
    uint32_t r;
    __asm__("sxtb16 %0, %1" : "=r"(r) : "r"(x));
    return r;
}
static inline uint32_t lfwd_odd(uint32_t x) /* bytes 1 and 3 */
{
    uint32_t r;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(x));
    return r;
}
static inline int32_t lfwd_smlad(uint32_t x, uint32_t y, int32_t sum)
{
    int32_t r;
    __asm__("smlad %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(sum));
    return r;
}
static inline int32_t lfwd_smlabb(uint32_t x, uint32_t y, int32_t sum) /* low halves */
{
    int32_t r;
    __asm__("smlabb %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(sum));
    return r;
}
static inline int32_t lfwd_smlatt(uint32_t x, uint32_t y, int32_t sum) /* high halves */
{
    int32_t r;
    __asm__("smlatt %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(sum));
    return r;
}
/* lfwd_requantize_s8 into all of int8, for a sum within 30 bits and shift <= 0; act_min and act_max are left to lfwd_bound. */
static inline int8_t lfwd_requantize_narrow(int32_t sum, int32_t multiplier, int32_t shift, int32_t offset)
{
    const int32_t right = -shift;
    int32_t high, q;
    __asm__("smmulr %0, %1, %2" : "=r"(high) : "r"(sum * 2), "r"(multiplier)); /* (2 s m + 2^31) >> 32 = (s m + 2^30) >> 31 */
    high -= (int32_t)((uint32_t)(high & shift) >> 31); /* half away from zero: one less where negative and shifted */
    __asm__("ssat %0, #8, %1" : "=r"(q) : "r"(((high + (int32_t)((UINT32_C(1) << right) >> 1)) >> right) + offset));
    return (int8_t)q;
}
/* The activation's own bounds, where they are not those of int8. */
static inline void lfwd_bound(int8_t *values, int32_t count, int32_t low, int32_t high)
{
    if (low > INT8_MIN || high < INT8_MAX) lfwd_clamp_s8(values, count, low, high, values);
}
#endif
#endif
