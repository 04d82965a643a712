/* SPDX-License-Identifier: Apache-2.0 */
#define LFWD_MFCC_TABLES
#include "lfwd_mfcc_integer.h"

#ifndef LFWD_MFCC_RAM
#define LFWD_MFCC_RAM /* where the frame at hand lies, e.g. -DLFWD_MFCC_RAM='__attribute__((section(".dtcm")))' */
#endif

#define HALF (LFWD_MFCC_FFT / 2)
#define QUARTER (LFWD_MFCC_FFT / 4)

typedef struct {
    int32_t re, im;
} pair;

static pair work[HALF] LFWD_MFCC_RAM; /* the frame, two samples as one complex number; then its spectrum */

static int32_t bit_length(uint64_t x)
{
#ifdef __GNUC__
    return x >> 32 ? 64 - __builtin_clz((unsigned)(x >> 32)) : (uint32_t)x ? 32 - __builtin_clz((unsigned)x) : 0;
#else
    int32_t n = 0;
    for (; x; x >>= 1) n++;
    return n;
#endif
}

static uint32_t top32(uint64_t x, int32_t bits)
{
    return (uint32_t)(bits > 32 ? x >> (bits - 32) : x << (32 - bits));
}

/* On the line from an entry to the next; fraction in Q16. */
static uint32_t between(const uint32_t *entry, uint32_t fraction)
{
    return entry[0] + (((entry[1] - entry[0]) * fraction) >> 16);
}

static uint32_t root(uint64_t x)
{
    if (x == 0) return 0;
    const int32_t bits = (bit_length(x) + 1) & ~1; /* even, so that the root of the power of two is one */
    const uint32_t m = top32(x, bits), mantissa = between(&lfwd_mfcc_roots[(m >> 26) - 16u], (m >> 10) & 0xFFFFu);
    const int32_t below = 19 - (bits >> 1);
    return below > 0 ? mantissa >> below : mantissa << -below;
}

static int32_t log_2(uint64_t x) /* Q16, x > 0 */
{
    const int32_t bits = bit_length(x);
    const uint32_t m = top32(x, bits);
    return (bits - 1) * 65536 + (int32_t)between(&lfwd_mfcc_logs[(m >> 25) & 63u], (m >> 9) & 0xFFFFu);
}

/* cos + i sin of 2 pi k / LFWD_MFCC_FFT in Q31, k < HALF */
static pair turn(uint32_t k)
{
    const uint32_t away = k <= QUARTER ? QUARTER - k : k - QUARTER;
    const int32_t c = lfwd_mfcc_sines[away];
    const pair t = {k <= QUARTER ? c : -c, lfwd_mfcc_sines[QUARTER - away]};
    return t;
}

/* Half of x (cos - i sin), towards minus infinity. */
static inline pair turned(int32_t re, int32_t im, pair w)
{
    const int32_t minus = -w.im;
    const pair t = {(int32_t)(((int64_t)re * w.re + (int64_t)im * w.im) >> 32), (int32_t)(((int64_t)im * w.re + (int64_t)re * minus) >> 32)};
    return t;
}

void lfwd_mfcc_listen(const int16_t *audio, int32_t samples, lfwd_mfcc_loudness *loudness)
{
    int32_t peak = INT16_MIN, least = INT16_MAX;
    for (int32_t i = 0; i < samples; i++) {
        if (audio[i] > peak) peak = audio[i];
        if (audio[i] < least) least = audio[i];
    }
    const int32_t bits = bit_length((uint32_t)(peak > -least ? peak : -least)), up = bits < LFWD_MFCC_NORMAL ? LFWD_MFCC_NORMAL - bits : 0;
    loudness->gain = (int32_t)1 << up;
    loudness->floor = peak > 0 ? (peak * loudness->gain * LFWD_MFCC_FLOOR_OF_PEAK) >> LFWD_MFCC_FLOOR_BITS : 0;
    loudness->least = (peak > 0 ? log_2((uint32_t)peak) : LFWD_MFCC_NO_PEAK) + (up + LFWD_MFCC_BELOW) * 65536;
}

static int32_t windowed(const int16_t *frame, int32_t gain, int32_t i)
{
    return (frame[i] * (lfwd_mfcc_window[i <= LFWD_MFCC_FRAME / 2 ? i : LFWD_MFCC_FRAME - i] * gain)) >> 2; /* periodic, symmetric */
}

/* The frame into `work`, each pair of samples where the transform's first step wants it: bits of its place reversed. */
static void load(const int16_t *frame, int32_t gain)
{
    uint32_t place = 0;
    for (int32_t n = 0; n < HALF; n++) {
        work[place].re = 2 * n < LFWD_MFCC_FRAME ? windowed(frame, gain, 2 * n) : 0;
        work[place].im = 2 * n < LFWD_MFCC_FRAME ? windowed(frame, gain, 2 * n + 1) : 0;
        uint32_t bit = HALF >> 1;
        while (place & bit) {
            place ^= bit;
            bit >>= 1;
        }
        place |= bit;
    }
}

static inline void cross(pair *a, pair *b, pair t) /* a + t, a - t */
{
    const pair sum = {a->re + t.re, a->im + t.im}, difference = {a->re - t.re, a->im - t.im};
    *a = sum;
    *b = difference;
}

/* In place, decimation in time: two stages without a product, then six, each at half the scale. */
static void transform(void)
{
    for (pair *p = work; p < work + HALF; p += 4) {
        cross(&p[0], &p[1], p[1]);
        cross(&p[2], &p[3], p[3]);
        const pair quarter = {p[3].im, -p[3].re};
        cross(&p[0], &p[2], p[2]);
        cross(&p[1], &p[3], quarter);
    }
    for (uint32_t size = 4; size < HALF; size *= 2)
        for (uint32_t k = 0; k < size; k++) {
            const pair w = turn(k * (HALF / size));
            for (pair *a = work + k; a < work + HALF; a += 2 * size) {
                const pair t = turned(a[size].re, a[size].im, w);
                a->re >>= 1;
                a->im >>= 1;
                cross(a, a + size, t);
            }
        }
}

/* Of the real frame at bin k, 0 < k < HALF: even and odd samples apart, then together. */
static uint32_t magnitude(uint32_t k)
{
    const pair a = {work[k].re >> 1, work[k].im >> 1}, b = {work[HALF - k].re >> 1, work[HALF - k].im >> 1};
    const pair odd = turned(a.im + b.im, b.re - a.re, turn(k));
    const int32_t re = ((a.re + b.re) >> 1) + odd.re, im = ((a.im - b.im) >> 1) + odd.im;
    return root((uint64_t)((int64_t)re * re + (int64_t)im * im));
}

void lfwd_mfcc_integer(const int16_t frame[LFWD_MFCC_FRAME], const lfwd_mfcc_loudness *loudness, int8_t steps[LFWD_MFCC_COEFFICIENTS])
{
    uint64_t bands[LFWD_MFCC_BANDS];
    int64_t sums[LFWD_MFCC_COEFFICIENTS];
    load(frame, loudness->gain);
    transform();
    for (int32_t b = 0; b < LFWD_MFCC_BANDS; b++) bands[b] = (uint32_t)loudness->floor;
    for (uint32_t k = LFWD_MFCC_FIRST_BIN, at = 0; k < LFWD_MFCC_FIRST_BIN + LFWD_MFCC_BINS; k++) {
        const uint32_t size = magnitude(k);
        const lfwd_mfcc_bin bin = lfwd_mfcc_bins[k - LFWD_MFCC_FIRST_BIN];
        for (uint32_t b = 0; b < bin.bands; b++) bands[bin.first + b] += (uint64_t)size * lfwd_mfcc_weights[at++];
    }
    for (int32_t k = 0; k < LFWD_MFCC_COEFFICIENTS; k++) sums[k] = LFWD_MFCC_ZERO * ((int64_t)1 << 32) + ((int64_t)1 << 31);
    for (int32_t b = 0; b < LFWD_MFCC_BANDS; b++) {
        int32_t level = bands[b] ? log_2(bands[b]) - loudness->least : LFWD_MFCC_SILENCE;
        if (level < LFWD_MFCC_SILENCE) level = LFWD_MFCC_SILENCE;
        for (int32_t k = 0; k < LFWD_MFCC_COEFFICIENTS; k++) sums[k] += (int64_t)level * lfwd_mfcc_cosines[b][k];
    }
    for (int32_t k = 0; k < LFWD_MFCC_COEFFICIENTS; k++) {
        const int32_t q = (int32_t)(sums[k] >> 32);
        steps[k] = (int8_t)(q < -128 ? -128 : q > 127 ? 127 : q);
    }
}
