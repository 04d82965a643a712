/* Inner loops of the integer kernels with DSP instructions (Cortex-M4, M7): two products, two roundings or two masters at a time. */
#include "lfwd_dsp.h"
#include "lfwd_integer_body.h"
#if LFWD_DSP

static inline uint32_t load2(const void *p) /* two halfwords, any alignment of theirs */
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}
static inline int32_t add_low(int32_t x, uint32_t pair) /* x + the low half, unsigned */
{
    int32_t r;
    __asm__("uxtah %0, %1, %2" : "=r"(r) : "r"(x), "r"(pair));
    return r;
}
static inline int32_t add_high(int32_t x, uint32_t pair)
{
    int32_t r;
    __asm__("uxtah %0, %1, %2, ror #16" : "=r"(r) : "r"(x), "r"(pair));
    return r;
}
static inline uint32_t add_halves(uint32_t x, uint32_t y)
{
    uint32_t r;
    __asm__("uadd16 %0, %1, %2" : "=r"(r) : "r"(x), "r"(y));
    return r;
}
static inline uint32_t high_halves(int32_t low, int32_t high)
{
    uint32_t r;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(r) : "r"(high), "r"(low));
    return r;
}
static inline uint32_t subtract_halves(uint32_t x, uint32_t y) /* saturated */
{
    uint32_t r;
    __asm__("qsub16 %0, %1, %2" : "=r"(r) : "r"(x), "r"(y));
    return r;
}
static inline int32_t smulbb(uint32_t x, uint32_t y)
{
    int32_t r;
    __asm__("smulbb %0, %1, %2" : "=r"(r) : "r"(x), "r"(y));
    return r;
}
static inline int32_t smultb(uint32_t x, uint32_t y)
{
    int32_t r;
    __asm__("smultb %0, %1, %2" : "=r"(r) : "r"(x), "r"(y));
    return r;
}
static inline int32_t smlatb(uint32_t x, uint32_t y, int32_t sum)
{
    int32_t r;
    __asm__("smlatb %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(sum));
    return r;
}

static inline int32_t saturate16(int32_t x)
{
    int32_t r;
    __asm__("ssat %0, #16, %1" : "=r"(r) : "r"(x));
    return r;
}
static inline uint32_t low_halves(int32_t low, int32_t high)
{
    uint32_t r;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(r) : "r"(low), "r"(high));
    return r;
}

/* Two changes. Shifts from 16 on: (sum >> (s - 16)) + r, of which the high half is the change, never too large. */
static inline uint32_t changes_far(int32_t first, int32_t second, int32_t s, const uint16_t *line, uint32_t rows)
{
    const uint32_t draws = add_halves(load2(line), rows);
    return high_halves(add_low(first >> (s - 16), draws), add_high(second >> (s - 16), draws));
}
/* Below: (sum + (r >> (16 - s))) >> s, saturated. */
static inline uint32_t changes_near(int32_t first, int32_t second, int32_t s, uint32_t mask, const uint16_t *line, uint32_t rows)
{
    const uint32_t draws = (add_halves(load2(line), rows) >> (16 - s)) & mask;
    return low_halves(saturate16(add_low(first, draws) >> s), saturate16(add_high(second, draws) >> s));
}
static inline void subtract_two(int16_t *masters, uint32_t changes)
{
    const uint32_t changed = subtract_halves(load2(masters), changes);
    memcpy(masters, &changed, sizeof changed);
}
static inline void write_two_far(int16_t *masters, int32_t first, int32_t second, int32_t s, const uint16_t *line, uint32_t rows)
{
    subtract_two(masters, changes_far(first, second, s, line, rows));
}
static inline void write_two_near(int16_t *masters, int32_t first, int32_t second, int32_t s, uint32_t mask, const uint16_t *line, uint32_t rows)
{
    subtract_two(masters, changes_near(first, second, s, mask, line, rows));
}
static inline int32_t left(int32_t x, int32_t k)
{
    return (int32_t)((uint32_t)x << k);
}
static inline uint32_t mask_of(int32_t s) /* s bits of both halves */
{
    return ((UINT32_C(1) << s) - 1u) * 0x10001u;
}

void lfwd_int_products(const int16_t *c0, const int16_t *c1, const int16_t *x, int32_t m, int32_t n, int32_t fresh, int32_t *sums0,
                       int32_t *sums1)
{
    for (; n > 0; n -= 3, x += 3 * LFWD_INT_PLACES, sums0 += 3, sums1 += 3) {
        int32_t a0 = 0, a1 = 0, a2 = 0, b0 = 0, b1 = 0, b2 = 0;
        const int16_t *u = c0, *v = c1, *p = x, *const end = c0 + (m & ~3);
#ifdef __OPTIMIZE__ /* fourteen registers: the compiler would keep some in memory */
#define FOUR_PLACES                                                                                                       \
    "ldr %[t], [%[u]], #4\n\tldr %[y], [%[v]], #4\n\tldrd %[p0], %[p1], [%[p]], #8\n\t"                                  \
    "smlad %[a0], %[t], %[p0], %[a0]\n\tsmlad %[b0], %[y], %[p0], %[b0]\n\tldr %[p0], [%[p], #120]\n\t"                  \
    "smlad %[a1], %[t], %[p0], %[a1]\n\tsmlad %[b1], %[y], %[p0], %[b1]\n\tldr %[p0], [%[p], #248]\n\t"                  \
    "smlad %[a2], %[t], %[p0], %[a2]\n\tsmlad %[b2], %[y], %[p0], %[b2]\n\t"                                             \
    "ldr %[t], [%[u]], #4\n\tldr %[y], [%[v]], #4\n\t"                                                                  \
    "smlad %[a0], %[t], %[p1], %[a0]\n\tsmlad %[b0], %[y], %[p1], %[b0]\n\tldr %[p0], [%[p], #124]\n\t"                  \
    "smlad %[a1], %[t], %[p0], %[a1]\n\tsmlad %[b1], %[y], %[p0], %[b1]\n\tldr %[p0], [%[p], #252]\n\t"                  \
    "smlad %[a2], %[t], %[p0], %[a2]\n\tsmlad %[b2], %[y], %[p0], %[b2]\n\t"
        uint32_t t = (uint32_t)m, y, p0, p1; /* t: m at first */
        __asm__("cmp %[u], %[end]\n\tbeq 2f\n\ttst %[t], #4\n\tbeq 1f\n\t" FOUR_PLACES "cmp %[u], %[end]\n\tbeq 2f\n"
                "1:\n\t" FOUR_PLACES FOUR_PLACES "cmp %[u], %[end]\n\tbne 1b\n"
                "2:"
                : [a0] "+r"(a0), [a1] "+r"(a1), [a2] "+r"(a2), [b0] "+r"(b0), [b1] "+r"(b1), [b2] "+r"(b2), [u] "+r"(u), [v] "+r"(v),
                  [p] "+r"(p), [t] "+r"(t), [y] "=&r"(y), [p0] "=&r"(p0), [p1] "=&r"(p1)
                : [end] "r"(end)
                : "cc", "memory");
#else
        for (; u != end; u += 2, v += 2, p += 2) {
            const uint32_t t = load2(u), y = load2(v), p0 = load2(p), p1 = load2(p + LFWD_INT_PLACES), p2 = load2(p + 2 * LFWD_INT_PLACES);
            a0 = lfwd_smlad(t, p0, a0), a1 = lfwd_smlad(t, p1, a1), a2 = lfwd_smlad(t, p2, a2);
            b0 = lfwd_smlad(y, p0, b0), b1 = lfwd_smlad(y, p1, b1), b2 = lfwd_smlad(y, p2, b2);
        }
#endif
        for (int32_t k = m & 3; k > 0; k--, u++, v++, p++) {
            a0 += *u * p[0], a1 += *u * p[LFWD_INT_PLACES], a2 += *u * p[2 * LFWD_INT_PLACES];
            b0 += *v * p[0], b1 += *v * p[LFWD_INT_PLACES], b2 += *v * p[2 * LFWD_INT_PLACES];
        }
        if (!fresh) a0 += sums0[0], a1 += sums0[1], a2 += sums0[2], b0 += sums1[0], b1 += sums1[1], b2 += sums1[2];
        sums0[0] = a0, sums0[1] = a1, sums0[2] = a2, sums1[0] = b0, sums1[1] = b1, sums1[2] = b2;
    }
}

void lfwd_int_write_row(int16_t *masters, const int32_t *sums, int32_t n, int32_t s, const uint16_t *line, uint32_t row)
{
    const uint32_t rows = row | row << 16;
    int32_t k = 0;
    if (s >= 16 && s <= 46) {
        for (; k + 4 <= n; k += 4) {
            write_two_far(masters + k, sums[k], sums[k + 1], s, line + k, rows);
            write_two_far(masters + k + 2, sums[k + 2], sums[k + 3], s, line + k + 2, rows);
        }
    } else if (s > 0 && s < 16) {
        const uint32_t mask = mask_of(s);
        for (; k + 4 <= n; k += 4) {
            write_two_near(masters + k, sums[k], sums[k + 1], s, mask, line + k, rows);
            write_two_near(masters + k + 2, sums[k + 2], sums[k + 3], s, mask, line + k + 2, rows);
        }
    }
    if (k < n) lfwd_int_write_plain(masters + k, sums + k, n - k, s, line + k, row);
}

static inline uint32_t add_saturated(uint32_t x, uint32_t y)
{
    uint32_t r;
    __asm__("qadd16 %0, %1, %2" : "=r"(r) : "r"(x), "r"(y));
    return r;
}

void lfwd_int_accelerate_row(int16_t *velocity, const int32_t *sums, int32_t n, int32_t s, int32_t momentum, const uint16_t *line, uint32_t row,
                             const uint16_t *line1, uint32_t row1)
{
    const uint32_t rows = row | row << 16, rows1 = row1 | row1 << 16, mu = (uint32_t)momentum;
    const uint32_t mask = mask_of(s > 0 && s < 16 ? s : 1);
    int32_t k = 0;
    if (momentum <= LFWD_INT16_TOP && s > 0 && s <= 46)
        for (; k + 2 <= n; k += 2) {
            const uint32_t changes = s < 16 ? changes_near(sums[k], sums[k + 1], s, mask, line + k, rows)
                                            : changes_far(sums[k], sums[k + 1], s, line + k, rows);
            const uint32_t old = load2(velocity + k), draws = (add_halves(load2(line1 + k), rows1) >> 1) & 0x7FFF7FFFu;
            const uint32_t kept = low_halves(add_low(smulbb(old, mu), draws) >> 15, add_high(smultb(old, mu), draws) >> 15);
            const uint32_t new = add_saturated(kept, changes);
            memcpy(velocity + k, &new, sizeof new);
        }
    lfwd_int_accelerate_plain(velocity + k, sums + k, n - k, s, momentum, line + k, row, line1 + k, row1);
}

void lfwd_int_outer_row(int16_t *masters, const int8_t *x, int32_t n, int32_t c, int32_t s, const uint16_t *line, uint32_t row)
{
    const uint32_t rows = row | row << 16, co = (uint32_t)c;
    int32_t k = 0;
    if (s >= 16 && s <= 46) {
        for (; k + 4 <= n; k += 4) {
            const uint32_t four = lfwd_load4(x + k), even = lfwd_even(four), odd = lfwd_odd(four);
            write_two_far(masters + k, smulbb(even, co), smulbb(odd, co), s, line + k, rows);
            write_two_far(masters + k + 2, smultb(even, co), smultb(odd, co), s, line + k + 2, rows);
        }
    } else if (s > 0 && s < 16 && (c < 0 ? ~c : c) >> (7 + s) == 0) { /* below 2^30 when shifted by 16 - s to the left: one half less */
        for (; k + 4 <= n; k += 4) {
            const uint32_t four = lfwd_load4(x + k), even = lfwd_even(four), odd = lfwd_odd(four);
            const int32_t a = left(smulbb(even, co), 16 - s), b = left(smulbb(odd, co), 16 - s);
            write_two_far(masters + k, a, b, 16, line + k, rows);
            write_two_far(masters + k + 2, left(smultb(even, co), 16 - s), left(smultb(odd, co), 16 - s), 16, line + k + 2, rows);
        }
    } else if (s > 0 && s < 16) {
        const uint32_t mask = mask_of(s);
        for (; k + 4 <= n; k += 4) {
            const uint32_t four = lfwd_load4(x + k), even = lfwd_even(four), odd = lfwd_odd(four);
            write_two_near(masters + k, smulbb(even, co), smulbb(odd, co), s, mask, line + k, rows);
            write_two_near(masters + k + 2, smultb(even, co), smultb(odd, co), s, mask, line + k + 2, rows);
        }
    }
    lfwd_int_outer_plain(masters + k, x + k, n - k, c, s, line + k, row);
}

void lfwd_int_widen(const int8_t *x, int32_t n, int16_t *out)
{
    for (; n >= 4; n -= 4, x += 4, out += 4) {
        const uint32_t four = lfwd_load4(x), even = lfwd_even(four), odd = lfwd_odd(four);
        uint32_t low, high;
        __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(low) : "r"(even), "r"(odd));
        __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(high) : "r"(odd), "r"(even));
        memcpy(out, &low, sizeof low), memcpy(out + 2, &high, sizeof high);
    }
    for (; n > 0; n--) *out++ = *x++;
}

void lfwd_int_back_rows(const int16_t *e, const int16_t *masters, int32_t rows, int32_t columns, int32_t n, int32_t *acc)
{
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        int32_t a0 = acc[i], a1 = acc[i + 1], a2 = acc[i + 2], a3 = acc[i + 3];
        int32_t a4 = acc[i + 4], a5 = acc[i + 5], a6 = acc[i + 6], a7 = acc[i + 7];
        const int16_t *m = masters + i;
        for (const int16_t *p = e; p != e + rows; m += columns) {
            const uint32_t t = (uint32_t)*p++;
            uint32_t v = lfwd_odd(load2(m)); /* the high bytes of both masters */
            a0 = lfwd_smlabb(v, t, a0), a1 = smlatb(v, t, a1);
            v = lfwd_odd(load2(m + 2));
            a2 = lfwd_smlabb(v, t, a2), a3 = smlatb(v, t, a3);
            v = lfwd_odd(load2(m + 4));
            a4 = lfwd_smlabb(v, t, a4), a5 = smlatb(v, t, a5);
            v = lfwd_odd(load2(m + 6));
            a6 = lfwd_smlabb(v, t, a6), a7 = smlatb(v, t, a7);
        }
        acc[i] = a0, acc[i + 1] = a1, acc[i + 2] = a2, acc[i + 3] = a3;
        acc[i + 4] = a4, acc[i + 5] = a5, acc[i + 6] = a6, acc[i + 7] = a7;
    }
    for (; i < n; i++)
        for (int32_t o = 0; o < rows; o++) acc[i] += e[o] * (masters[o * columns + i] >> 8);
}

static inline uint32_t halfwords(const int8_t *two)
{
    return ((uint32_t)two[0] & 0xFFFFu) | (uint32_t)two[1] << 16;
}

/* One tap: no two weights lie side by side. */
static void back_places_of_one(const int16_t *e, int32_t size, const lfwd_int_weight *w, int32_t first, int32_t apart, int32_t outputs,
                               int32_t *sums)
{
    int32_t a = 0, b = 0, c = 0;
    for (; outputs > 0; outputs--, e += 2, first += apart) {
        const int32_t v = lfwd_int_view(w, first);
        a += e[1] * v, b += e[1 + size] * v, c += e[1 + 2 * size] * v;
    }
    sums[0] = a, sums[1] = b, sums[2] = c;
}

/* The most frequent: 3x3, masters. The ninth weight comes with the eighth, whose error is then 0. */
static void back_places_of_nine(const int16_t *e, int32_t size, const int16_t *m, int32_t apart, int32_t outputs, int32_t *sums)
{
    const int16_t *f = e + size, *g = f + size;
    int32_t a = 0, b = 0, c = 0;
#define PAIR(at, k)                                                                                                       \
    {                                                                                                                     \
        const uint32_t v = lfwd_odd(load2(m + (at)));                                                                     \
        a = lfwd_smlad(load2(e + (k)), v, a), b = lfwd_smlad(load2(f + (k)), v, b), c = lfwd_smlad(load2(g + (k)), v, c); \
    }
    for (; outputs > 0; outputs--, m += apart, e += 10, f += 10, g += 10) {
        PAIR(0, 0)
        PAIR(2, 2)
        PAIR(4, 4)
        PAIR(6, 6)
        PAIR(7, 8)
    }
    sums[0] = a, sums[1] = b, sums[2] = c;
}

static void back_places(const int16_t *e, int32_t size, const int16_t *masters, const int8_t *frozen, int32_t apart, int32_t outputs,
                        int32_t taps, int32_t *sums)
{
    int32_t a = 0, b = 0, c = 0;
    for (; outputs > 0; outputs--) {
        for (int32_t t = 0; t < taps; t += 2, e += 2) {
            const int32_t at = t + 1 < taps ? t : t - 1;
            const uint32_t v = masters ? lfwd_odd(load2(masters + at)) : halfwords(frozen + at);
            a = lfwd_smlad(load2(e), v, a), b = lfwd_smlad(load2(e + size), v, b), c = lfwd_smlad(load2(e + 2 * size), v, c);
        }
        if (masters) masters += apart;
        else frozen += apart;
    }
    sums[0] = a, sums[1] = b, sums[2] = c;
}

void lfwd_int_back_places(const int16_t *windows, int32_t size, const lfwd_int_weight *w, int32_t first, int32_t apart, int32_t outputs,
                          int32_t taps, int32_t *sums)
{
    if (taps == 1) back_places_of_one(windows, size, w, first, apart, outputs, sums);
    else if (w->masters && taps == 9) back_places_of_nine(windows, size, w->masters + first, apart, outputs, sums);
    else if (w->masters) back_places(windows, size, w->masters + first, 0, apart, outputs, taps, sums);
    else back_places(windows, size, 0, w->frozen + first, apart, outputs, taps, sums);
}
#else
typedef int lfwd_integer_body_dsp_not_built; /* ISO C forbids an empty translation unit */
#endif
