/* SPDX-License-Identifier: Apache-2.0
 *
 * Mel-frequency cepstral coefficients of sound as of lfwd_mfcc.h, without a float: the bits of lightning_fwd/data/integer_audio.py, which
 * defines them. lfwd_prepare calls it, frame by frame. No heap. */
#ifndef LFWD_MFCC_INTEGER_H
#define LFWD_MFCC_INTEGER_H
#include <stdint.h>

#include "lfwd_mfcc_integer_tables.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How loud a recording is. */
typedef struct {
    int32_t gain;  /* power of two that brings its loudest sample to 15 bits */
    int32_t floor; /* added to each band */
    int32_t least; /* logarithm of its peak, as bands count */
} lfwd_mfcc_loudness;

void lfwd_mfcc_listen(const int16_t *audio, int32_t samples, lfwd_mfcc_loudness *loudness);

/* One frame of it: LFWD_MFCC_COEFFICIENTS steps of int8. */
void lfwd_mfcc_integer(const int16_t frame[LFWD_MFCC_FRAME], const lfwd_mfcc_loudness *loudness, int8_t steps[LFWD_MFCC_COEFFICIENTS]);

#ifdef __cplusplus
}
#endif
#endif
