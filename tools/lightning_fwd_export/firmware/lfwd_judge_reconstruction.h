/* SPDX-License-Identifier: Apache-2.0
 *
 * What a reconstruction is worth: its mean squared error (internal: a part of lfwd_adapt.c). */
#ifndef LFWD_JUDGE_RECONSTRUCTION_H
#define LFWD_JUDGE_RECONSTRUCTION_H
#include "lfwd_anomaly.h"
#include "lfwd_judge_sums.h"

#define SCALES 1

/* Adds a sample's score to the sum. There is one class. */
static int32_t predict(const float *input, int32_t label, float sums[SCALES])
{
    (void)label;
    sums[0] += lfwd_anomaly_score(input);
    return LFWD_NORMAL;
}
#endif
