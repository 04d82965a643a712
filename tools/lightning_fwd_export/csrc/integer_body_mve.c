/* Inner loops of the integer kernels on Helium: eight products or eight masters at a time. */
#include "lfwd_integer_body.h"
#if LFWD_MVE
#include <arm_mve.h>

void lfwd_int_products(const int16_t *c0, const int16_t *c1, const int16_t *x, int32_t m, int32_t n, int32_t fresh, int32_t *sums0,
                       int32_t *sums1)
{
    for (; n > 0; n -= 3, x += 3 * LFWD_INT_PLACES, sums0 += 3, sums1 += 3) {
        int32_t a0 = 0, a1 = 0, a2 = 0, b0 = 0, b1 = 0, b2 = 0;
        if (!fresh) a0 = sums0[0], a1 = sums0[1], a2 = sums0[2], b0 = sums1[0], b1 = sums1[1], b2 = sums1[2];
        const int16_t *u = c0, *v = c1, *p = x;
#define EIGHT_PLACES(cu, cv)                                         \
    {                                                                \
        int16x8_t t = vldrhq_s16(p);                                 \
        a0 = vmladavaq_s16(a0, cu, t), b0 = vmladavaq_s16(b0, cv, t); \
        t = vldrhq_s16(p + LFWD_INT_PLACES);                         \
        a1 = vmladavaq_s16(a1, cu, t), b1 = vmladavaq_s16(b1, cv, t); \
        t = vldrhq_s16(p + 2 * LFWD_INT_PLACES);                     \
        a2 = vmladavaq_s16(a2, cu, t), b2 = vmladavaq_s16(b2, cv, t); \
    }
        for (int32_t eights = m >> 3; eights > 0; eights--, u += 8, v += 8, p += 8) {
            const int16x8_t cu = vldrhq_s16(u), cv = vldrhq_s16(v);
            EIGHT_PLACES(cu, cv)
        }
        if (m & 7) { /* the columns have more places: times a zero */
            const mve_pred16_t valid = vctp16q((uint32_t)(m & 7));
            const int16x8_t cu = vldrhq_z_s16(u, valid), cv = vldrhq_z_s16(v, valid);
            EIGHT_PLACES(cu, cv)
        }
        sums0[0] = a0, sums0[1] = a1, sums0[2] = a2, sums1[0] = b0, sums1[1] = b1, sums1[2] = b2;
    }
}

/* lfwd_stochastic as three shifts: ((x >> a) + (r >> b)) >> d. */
typedef struct {
    int32_t a, b, d;
} shifts;

static inline shifts shifts_of(int32_t s)
{
    const shifts some = {s > 16 ? 16 - s : 0, s < 16 ? s - 16 : 0, s < 16 ? -s : -16}; /* to the left, as VSHL counts */
    return some;
}

/* The changes of four even and four odd sums, saturated. */
static inline int16x8_t changes_of(int32x4_t even, int32x4_t odd, shifts by, uint16x8_t draws)
{
    const int32x4_t r0 = vreinterpretq_s32_u32(vshlq_r_u32(vmovlbq_u16(draws), by.b));
    const int32x4_t r1 = vreinterpretq_s32_u32(vshlq_r_u32(vmovltq_u16(draws), by.b));
    even = vshlq_r_s32(vaddq_s32(vshlq_r_s32(even, by.a), r0), by.d);
    odd = vshlq_r_s32(vaddq_s32(vshlq_r_s32(odd, by.a), r1), by.d);
    return vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), even), odd);
}

static inline void write_eight(int16_t *masters, int32x4_t even, int32x4_t odd, shifts by, uint16x8_t draws, mve_pred16_t valid)
{
    vstrhq_p_s16(masters, vqsubq_s16(vldrhq_z_s16(masters, valid), changes_of(even, odd, by, draws)), valid);
}

void lfwd_int_write_row(int16_t *masters, const int32_t *sums, int32_t n, int32_t s, const uint16_t *line, uint32_t row)
{
    if (s <= 0 || s > 46) {
        lfwd_int_write_plain(masters, sums, n, s, line, row);
        return;
    }
    const shifts by = shifts_of(s);
    for (; n > 0; n -= 8, masters += 8, sums += 8, line += 8) {
        const mve_pred16_t valid = vctp16q((uint32_t)n);
        const int32x4x2_t both = vld2q_s32(sums); /* scratch: eight beyond its end are there */
        write_eight(masters, both.val[0], both.val[1], by, vaddq_n_u16(vldrhq_z_u16(line, valid), (uint16_t)row), valid);
    }
}

void lfwd_int_accelerate_row(int16_t *velocity, const int32_t *sums, int32_t n, int32_t s, int32_t momentum, const uint16_t *line, uint32_t row,
                             const uint16_t *line1, uint32_t row1)
{
    if (s <= 0 || s > 46 || momentum > LFWD_INT16_TOP) {
        lfwd_int_accelerate_plain(velocity, sums, n, s, momentum, line, row, line1, row1);
        return;
    }
    const shifts by = shifts_of(s), half = shifts_of(15);
    const int16x8_t mu = vdupq_n_s16((int16_t)momentum);
    for (; n > 0; n -= 8, velocity += 8, sums += 8, line += 8, line1 += 8) {
        const mve_pred16_t valid = vctp16q((uint32_t)n);
        const int32x4x2_t both = vld2q_s32(sums);
        const int16x8_t change = changes_of(both.val[0], both.val[1], by, vaddq_n_u16(vldrhq_z_u16(line, valid), (uint16_t)row));
        const int16x8_t old = vldrhq_z_s16(velocity, valid);
        const uint16x8_t draws = vaddq_n_u16(vldrhq_z_u16(line1, valid), (uint16_t)row1);
        const int16x8_t kept = changes_of(vmullbq_int_s16(old, mu), vmulltq_int_s16(old, mu), half, draws);
        vstrhq_p_s16(velocity, vqaddq_s16(kept, change), valid);
    }
}

void lfwd_int_outer_row(int16_t *masters, const int8_t *x, int32_t n, int32_t c, int32_t s, const uint16_t *line, uint32_t row)
{
    if (s <= 0 || s > 46) {
        lfwd_int_outer_plain(masters, x, n, c, s, line, row);
        return;
    }
    const shifts by = shifts_of(s);
    const int16x8_t co = vdupq_n_s16((int16_t)c);
    for (; n > 0; n -= 8, masters += 8, x += 8, line += 8) {
        const mve_pred16_t valid = vctp16q((uint32_t)n);
        const int16x8_t eight = vldrbq_z_s16(x, valid);
        const uint16x8_t draws = vaddq_n_u16(vldrhq_z_u16(line, valid), (uint16_t)row);
        write_eight(masters, vmullbq_int_s16(eight, co), vmulltq_int_s16(eight, co), by, draws, valid);
    }
}

void lfwd_int_widen(const int8_t *x, int32_t n, int16_t *out)
{
    for (; n >= 8; n -= 8, x += 8, out += 8) vstrhq_s16(out, vldrbq_s16(x));
    if (n > 0) {
        const mve_pred16_t valid = vctp16q((uint32_t)n);
        vstrhq_p_s16(out, vldrbq_z_s16(x, valid), valid);
    }
}

void lfwd_int_back_rows(const int16_t *e, const int16_t *masters, int32_t rows, int32_t columns, int32_t n, int32_t *acc)
{
    for (; n > 0; n -= 16, acc += 16, masters += 16) {
        const mve_pred16_t p0 = vctp32q((uint32_t)n), p1 = vctp32q(n > 4 ? (uint32_t)(n - 4) : 0u);
        const mve_pred16_t p2 = vctp32q(n > 8 ? (uint32_t)(n - 8) : 0u), p3 = vctp32q(n > 12 ? (uint32_t)(n - 12) : 0u);
        int32x4_t a0 = vldrwq_z_s32(acc, p0), a1 = vldrwq_z_s32(acc + 4, p1), a2 = vldrwq_z_s32(acc + 8, p2), a3 = vldrwq_z_s32(acc + 12, p3);
        const int16_t *m = masters;
        if (n >= 16) {
            for (int32_t o = 0; o < rows; o++, m += columns) {
                a0 = vmlaq_n_s32(a0, vshrq_n_s32(vldrhq_s32(m), 8), e[o]);
                a1 = vmlaq_n_s32(a1, vshrq_n_s32(vldrhq_s32(m + 4), 8), e[o]);
                a2 = vmlaq_n_s32(a2, vshrq_n_s32(vldrhq_s32(m + 8), 8), e[o]);
                a3 = vmlaq_n_s32(a3, vshrq_n_s32(vldrhq_s32(m + 12), 8), e[o]);
            }
        } else {
            for (int32_t o = 0; o < rows; o++, m += columns) {
                a0 = vmlaq_n_s32(a0, vshrq_n_s32(vldrhq_z_s32(m, p0), 8), e[o]);
                a1 = vmlaq_n_s32(a1, vshrq_n_s32(vldrhq_z_s32(m + 4, p1), 8), e[o]);
                a2 = vmlaq_n_s32(a2, vshrq_n_s32(vldrhq_z_s32(m + 8, p2), 8), e[o]);
                a3 = vmlaq_n_s32(a3, vshrq_n_s32(vldrhq_z_s32(m + 12, p3), 8), e[o]);
            }
        }
        vstrwq_p_s32(acc, a0, p0);
        vstrwq_p_s32(acc + 4, a1, p1);
        vstrwq_p_s32(acc + 8, a2, p2);
        vstrwq_p_s32(acc + 12, a3, p3);
    }
}

void lfwd_int_back_places(const int16_t *windows, int32_t size, const lfwd_int_weight *w, int32_t first, int32_t apart, int32_t outputs,
                          int32_t taps, int32_t *sums)
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    const int32_t step = w->masters ? 2 * apart : apart; /* bytes between two views: the high bytes of masters */
    const int8_t *weights = w->masters ? (const int8_t *)(w->masters + first) + 1 : w->frozen + first;
    const uint16x8_t lanes = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)step);
    const int16_t *e0 = windows, *e1 = e0 + size, *e2 = e1 + size, *e3 = e2 + size;
#define EIGHT_OUTPUTS(v)                                                                  \
    {                                                                                     \
        a = vmladavaq_s16(a, v, vldrhq_s16(e0)), b = vmladavaq_s16(b, v, vldrhq_s16(e1)); \
        c = vmladavaq_s16(c, v, vldrhq_s16(e2)), d = vmladavaq_s16(d, v, vldrhq_s16(e3)); \
    }
    for (int32_t t = 0; t < taps; t++, weights += w->masters ? 2 : 1) {
        const int8_t *from = weights;
        for (int32_t eights = outputs >> 3; eights > 0; eights--, from += 8 * step, e0 += 8, e1 += 8, e2 += 8, e3 += 8) {
            const int16x8_t v = vldrbq_gather_offset_s16(from, lanes);
            EIGHT_OUTPUTS(v)
        }
        if (outputs & 7) {
            const int16x8_t v = vldrbq_gather_offset_z_s16(from, lanes, vctp16q((uint32_t)(outputs & 7))); /* zero beyond */
            EIGHT_OUTPUTS(v)
            e0 += outputs & 7, e1 += outputs & 7, e2 += outputs & 7, e3 += outputs & 7;
        }
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#else
typedef int lfwd_integer_body_mve_not_built; /* ISO C forbids an empty translation unit */
#endif
