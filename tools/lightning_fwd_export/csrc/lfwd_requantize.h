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
/* Four dot products of `count` values with one x. */
static inline int32x4_t lfwd_dot4(const int8_t *w0, const int8_t *w1, const int8_t *w2, const int8_t *w3, const int8_t *x,
                                  int32_t count)
{
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (int32_t block = count >> 4; block > 0; block--) {
        const int8x16_t xv = vldrbq_s8(x);
        s0 = vmladavaq_s8(s0, xv, vldrbq_s8(w0));
        s1 = vmladavaq_s8(s1, xv, vldrbq_s8(w1));
        s2 = vmladavaq_s8(s2, xv, vldrbq_s8(w2));
        s3 = vmladavaq_s8(s3, xv, vldrbq_s8(w3));
        x += 16, w0 += 16, w1 += 16, w2 += 16, w3 += 16;
    }
    if (count & 15) {
        const mve_pred16_t valid = vctp8q((uint32_t)(count & 15));
        const int8x16_t xv = vldrbq_z_s8(x, valid); /* lanes beyond the filter read as zero */
        s0 = vmladavaq_s8(s0, xv, vldrbq_z_s8(w0, valid));
        s1 = vmladavaq_s8(s1, xv, vldrbq_z_s8(w1, valid));
        s2 = vmladavaq_s8(s2, xv, vldrbq_z_s8(w2, valid));
        s3 = vmladavaq_s8(s3, xv, vldrbq_z_s8(w3, valid));
    }
    int32x4_t sums = vdupq_n_s32(s0);
    sums = vsetq_lane_s32(s1, sums, 1);
    sums = vsetq_lane_s32(s2, sums, 2);
    return vsetq_lane_s32(s3, sums, 3);
}
#endif
#endif
