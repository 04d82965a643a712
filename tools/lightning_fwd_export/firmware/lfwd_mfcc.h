/* SPDX-License-Identifier: Apache-2.0
 *
 * Mel-frequency cepstral coefficients of sound, as the network was trained on: lfwd_prepare calls it, frame by frame. No heap, no double.
 * Frames of LFWD_MFCC_FRAME samples every LFWD_MFCC_HOP: window, magnitudes of a transform of LFWD_MFCC_FFT, mel bands, logarithm,
 * cosines, rounded to int8. The recording is divided by its largest value, so its loudness does not count. */
#ifndef LFWD_MFCC_H
#define LFWD_MFCC_H
#include <stdint.h>

#include "lfwd_mfcc_tables.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What lfwd_mfcc divides a recording by. */
float lfwd_mfcc_peak(const int16_t *audio, int32_t samples);

/* One frame of it: LFWD_MFCC_COEFFICIENTS steps of int8. */
void lfwd_mfcc(const int16_t frame[LFWD_MFCC_FRAME], float peak, int8_t steps[LFWD_MFCC_COEFFICIENTS]);

#ifdef __cplusplus
}
#endif
#endif
