/* Fixed-point rescaling shared by the int8 kernels: value * multiplier * 2^(shift - 31), multiplier in Q31.
 *
 * Rounds twice, as CMSIS-NN does by default: half up in the doubling high multiply, half away from zero in the right
 * shift. Vector and scalar bodies give the same bits.
 */
#ifndef LFWD_REQUANTIZE_H
#define LFWD_REQUANTIZE_H
#include <stdint.h>

#include "lfwd_int8.h"

static inline int32_t lfwd_clamp(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

static inline int32_t lfwd_requantize(int32_t value, int32_t multiplier, int32_t shift)
{
    const int32_t left = shift > 0 ? shift : 0, right = shift > 0 ? 0 : -shift;
    const int64_t product = (int64_t)value * ((int64_t)1 << left) * multiplier;
    const int32_t high = (int32_t)((product + ((int64_t)1 << 30)) >> 31);
    if (right == 0) return high;
    const int32_t mask = (int32_t)((UINT32_C(1) << right) - 1u);
    const int32_t threshold = (mask >> 1) + (high < 0);
    return (high >> right) + ((high & mask) > threshold);
}

static inline int8_t lfwd_requantize_s8(int32_t value, int32_t multiplier, int32_t shift, int32_t offset, int32_t low,
                                        int32_t high)
{
    return (int8_t)lfwd_clamp(lfwd_requantize(value, multiplier, shift) + offset, low, high);
}

#if LFWD_MVE
#include <arm_mve.h>
/* Four lanes, shift <= 0. The fix-up turns the rounding shift's half-up into half-away-from-zero. */
static inline int32x4_t lfwd_requantize_x4(int32x4_t value, int32x4_t multiplier, int32x4_t shift)
{
    const int32x4_t high = vqrdmulhq_s32(value, multiplier);
    const int32x4_t fix_up = vshrq_n_s32(vandq_s32(high, shift), 31);
    return vrshlq_s32(vqaddq_s32(high, fix_up), shift);
}
#endif
#endif
