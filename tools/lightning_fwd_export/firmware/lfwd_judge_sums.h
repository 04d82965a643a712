/* SPDX-License-Identifier: Apache-2.0
 *
 * Losses as floats: how they are summed, told and compared (internal: a part of lfwd_adapt.c). */
#ifndef LFWD_JUDGE_SUMS_H
#define LFWD_JUDGE_SUMS_H
#include <float.h>

#include "lfwd_adapt.h"

typedef float lfwd_total; /* of a network: its mean loss */

static float total_of(float sum, uint16_t count)
{
    return sum / (float)count;
}

static lfwd_loss told(float total, uint16_t count)
{
    (void)count;
    return total;
}

static int is_finite(float x)
{
    return x >= -FLT_MAX && x <= FLT_MAX;
}

/* By a thousandth and a little more: what is less is rounding. */
static int is_better(float now, float best, uint16_t count)
{
    (void)count;
    return now < best - best / 1024.0f - 1e-4f;
}
#endif
