/* SPDX-License-Identifier: Apache-2.0 */
#define LFWD_MFCC_TABLES
#include "lfwd_mfcc.h"

#include <math.h>

#ifndef LFWD_MFCC_RAM
#define LFWD_MFCC_RAM /* where the frame at hand lies, e.g. -DLFWD_MFCC_RAM='__attribute__((section(".dtcm")))' */
#endif

#define HALF (LFWD_MFCC_FFT / 2)

typedef struct {
    float re, im;
} pair;

static pair work[HALF] LFWD_MFCC_RAM; /* the frame, two samples as one complex number; then its spectrum */

float lfwd_mfcc_peak(const int16_t *audio, int32_t samples)
{
    int16_t peak = INT16_MIN;
    for (int32_t i = 0; i < samples; i++)
        if (audio[i] > peak) peak = audio[i];
    return peak > 0 ? (float)peak : 1e-9f * 32768.0f;
}

static float windowed(const int16_t *frame, float peak, int32_t i)
{
    if (i >= LFWD_MFCC_FRAME) return 0.0f;
    return (float)frame[i] / peak * lfwd_mfcc_window[i <= LFWD_MFCC_FRAME / 2 ? i : LFWD_MFCC_FRAME - i]; /* periodic, symmetric */
}

/* The frame into `work`, each pair of samples where the transform's first step wants it: bits of its place reversed. */
static void load(const int16_t *frame, float peak)
{
    uint32_t place = 0;
    for (uint32_t n = 0; n < HALF; n++) {
        work[place].re = windowed(frame, peak, (int32_t)(2u * n));
        work[place].im = windowed(frame, peak, (int32_t)(2u * n + 1u));
        uint32_t bit = HALF >> 1;
        while (place & bit) {
            place ^= bit;
            bit >>= 1;
        }
        place |= bit;
    }
}

/* In place, decimation in time; lfwd_mfcc_turn[k] = exp(-2 pi i k / LFWD_MFCC_FFT). */
static void transform(void)
{
    for (uint32_t size = 1; size < HALF; size *= 2)
        for (uint32_t k = 0; k < size; k++) {
            const float c = lfwd_mfcc_turn[k * (HALF / size)][0], s = lfwd_mfcc_turn[k * (HALF / size)][1];
            for (uint32_t at = k; at < HALF; at += 2 * size) {
                pair *const a = &work[at], *const b = &work[at + size];
                const pair t = {b->re * c - b->im * s, b->re * s + b->im * c};
                b->re = a->re - t.re;
                b->im = a->im - t.im;
                a->re += t.re;
                a->im += t.im;
            }
        }
}

/* Of the real frame at bin k, 0 < k < HALF: even and odd samples apart, then together. */
static float magnitude(uint32_t k)
{
    const pair a = work[k], b = work[HALF - k];
    const float even_re = a.re + b.re, even_im = a.im - b.im, odd_re = a.im + b.im, odd_im = b.re - a.re;
    const float c = lfwd_mfcc_turn[k][0], s = lfwd_mfcc_turn[k][1];
    const float re = even_re + c * odd_re - s * odd_im, im = even_im + c * odd_im + s * odd_re;
    return 0.5f * sqrtf(re * re + im * im);
}

void lfwd_mfcc(const int16_t frame[LFWD_MFCC_FRAME], float peak, int8_t steps[LFWD_MFCC_COEFFICIENTS])
{
    float bands[LFWD_MFCC_BANDS] = {0.0f}, sums[LFWD_MFCC_COEFFICIENTS] = {0.0f};
    load(frame, peak);
    transform();
    for (uint32_t k = LFWD_MFCC_FIRST_BIN, at = 0; k < LFWD_MFCC_FIRST_BIN + LFWD_MFCC_BINS; k++) {
        const float size = magnitude(k);
        const lfwd_mfcc_bin bin = lfwd_mfcc_bins[k - LFWD_MFCC_FIRST_BIN];
        for (uint32_t b = 0; b < bin.bands; b++) bands[bin.first + b] += size * lfwd_mfcc_weights[at++];
    }
    for (int32_t b = 0; b < LFWD_MFCC_BANDS; b++) {
        const float loudness = logf(bands[b] + 1e-6f);
        for (int32_t k = 0; k < LFWD_MFCC_COEFFICIENTS; k++) sums[k] += loudness * lfwd_mfcc_cosines[b][k];
    }
    for (int32_t k = 0; k < LFWD_MFCC_COEFFICIENTS; k++) {
        const float q = nearbyintf(sums[k] / LFWD_MFCC_STEP + (float)LFWD_MFCC_ZERO);
        steps[k] = (int8_t)(q < -128.0f ? -128.0f : q > 127.0f ? 127.0f : q);
    }
}
