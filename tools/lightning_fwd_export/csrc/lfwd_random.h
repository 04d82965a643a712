/* The generator of lightning_fwd.graph.counter_random, bit for bit: a number as a function of its place, no state. */
#ifndef LFWD_RANDOM_H
#define LFWD_RANDOM_H
#include <stdint.h>

/* "lowbias32" (Wellons, hash-prospector). A seed is a window of its one cycle of 2^32 values, which starts at lfwd_hash32(seed). */
static inline uint32_t lfwd_hash32(uint32_t x)
{
    x = (x ^ (x >> 16)) * UINT32_C(0x7FEB352D);
    x = (x ^ (x >> 15)) * UINT32_C(0x846CA68B);
    return x ^ (x >> 16);
}
#endif
