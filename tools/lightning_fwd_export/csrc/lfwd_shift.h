/* Shifts that round, and draws of stochastic rounding: lightning_fwd/integer/arithmetic.py in C. */
#ifndef LFWD_SHIFT_H
#define LFWD_SHIFT_H
#include <stdint.h>

#include "lfwd_random.h"

static inline int32_t lfwd_saturate(int32_t x, int32_t top) /* -top - 1 .. top */
{
    return x > top ? top : x < -top - 1 ? -top - 1 : x;
}

static inline int32_t lfwd_saturate64(int64_t x)
{
    return x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : (int32_t)x;
}

/* round(x * 2^-s), halves upwards; s < 0: to the left, saturated. */
static inline int32_t lfwd_shift(int32_t x, int32_t s)
{
    if (s > 31) return 0;
    if (s > 0) {
        const int32_t t = x >> (s - 1);
        return (t >> 1) + (t & 1);
    }
    return s == 0 ? x : lfwd_saturate64((int64_t)x * ((int64_t)1 << (s < -31 ? 31 : -s)));
}

/* x * 2^-s, rounded up with the probability of what is cut off; r uniform below 2^16, |x| < 2^30. */
static inline int32_t lfwd_stochastic(int32_t x, int32_t s, uint32_t r)
{
    if (s <= 0) return lfwd_shift(x, s);
    if (s <= 16) return (x + (int32_t)(r >> (16 - s))) >> s;
    return ((x >> (s > 46 ? 30 : s - 16)) + (int32_t)r) >> 16;
}

/* x * mult * 2^-15, rounded; mult 2^15 is 1. */
static inline int32_t lfwd_multiply(int32_t x, int32_t mult)
{
    return mult == 32768 ? x : (int32_t)(((int64_t)x * mult + 16384) >> 15);
}

static inline int32_t lfwd_bit_length(uint32_t x)
{
    int32_t n = 0;
    for (; x; x >>= 1) n++;
    return n;
}

static inline int8_t lfwd_to_exponent(int32_t x)
{
    return (int8_t)(x > 127 ? 127 : x < -127 ? -127 : x);
}

static inline int32_t lfwd_smallest(const int8_t *exponents, int32_t n)
{
    int32_t least = exponents[0];
    for (int32_t i = 1; i < n; i++) least = exponents[i] < least ? exponents[i] : least;
    return least;
}

static inline uint32_t lfwd_draw_key(const int64_t *counter, uint32_t stream)
{
    return lfwd_hash32(lfwd_hash32((uint32_t)*counter) + stream);
}

/* One draw per column; a row adds its own, modulo 2^16. */
static inline void lfwd_draw_line(uint32_t key, int32_t columns, uint16_t *line)
{
    for (int32_t j = 0; j < columns; j += 2) {
        const uint32_t h = lfwd_hash32(key + ((uint32_t)j >> 1));
        line[j] = (uint16_t)h;
        if (j + 1 < columns) line[j + 1] = (uint16_t)(h >> 16);
    }
}

static inline uint32_t lfwd_draw_rows(uint32_t key) /* the key of all rows */
{
    return lfwd_hash32(key + 0x80000000u);
}

static inline uint32_t lfwd_draw_row(uint32_t key, int32_t row)
{
    return lfwd_hash32(lfwd_draw_rows(key) + (uint32_t)row) & 0xFFFFu;
}
#endif
