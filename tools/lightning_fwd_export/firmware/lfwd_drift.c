/* SPDX-License-Identifier: Apache-2.0
 *
 * Operation by operation what lightning_fwd.adaptation.drift_score does on the host. */
#define LFWD_DRIFT_TABLES
#include "lfwd_drift.h"

#include <string.h>

static float means[LFWD_FEATURES]; /* running, of the standardised features */

void lfwd_drift_clear(void)
{
    memset(means, 0, sizeof means);
}

float lfwd_drift_add(const float features[LFWD_FEATURES])
{
    const float *factor = lfwd_drift_factor; /* column by column, from the diagonal down */
    float sum = 0.0f;
    for (int32_t i = 0; i < LFWD_FEATURES; i++) {
        float z = (features[i] - lfwd_drift_mean[i]) * lfwd_drift_scale[i];
        z = z > LFWD_DRIFT_REACH ? LFWD_DRIFT_REACH : z < -LFWD_DRIFT_REACH ? -LFWD_DRIFT_REACH : z == z ? z : 0.0f;
        means[i] += LFWD_DRIFT_WEIGHT * (z - means[i]);
    }
    for (int32_t i = 0; i < LFWD_FEATURES; i++) {
        float along = 0.0f;
        for (int32_t j = i; j < LFWD_FEATURES; j++) along += means[j] * *factor++;
        sum += along * along;
    }
    return sum / (float)LFWD_FEATURES;
}
