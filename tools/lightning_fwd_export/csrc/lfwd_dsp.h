/* The five SIMD32 instructions the DSP bodies use (Armv7E-M: Cortex-M4, M7). */
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
static inline uint32_t lfwd_even_plus(uint32_t offsets, uint32_t x)
{
    uint32_t r;
    __asm__("sxtab16 %0, %1, %2" : "=r"(r) : "r"(offsets), "r"(x));
    return r;
}
static inline uint32_t lfwd_odd_plus(uint32_t offsets, uint32_t x)
{
    uint32_t r;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(r) : "r"(offsets), "r"(x));
    return r;
}
static inline int32_t lfwd_smlad(uint32_t x, uint32_t y, int32_t sum)
{
    int32_t r;
    __asm__("smlad %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(sum));
    return r;
}
static inline uint32_t lfwd_offset_pair(int32_t offset)
{
    return ((uint32_t)offset & 0xFFFFu) | ((uint32_t)offset << 16);
}
#endif
#endif
