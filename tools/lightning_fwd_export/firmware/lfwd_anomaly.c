/* SPDX-License-Identifier: Apache-2.0
 *
 * Operation by operation what lightning_fwd.adaptation.anomaly does on the host. */
#include "lfwd_anomaly.h"

#include <float.h>
#include <math.h>

float lfwd_anomaly_score(const float input[LFWD_INPUT])
{
    float given[LFWD_INPUT], sum = 0.0f;
    lfwd_forward(input, given);
    for (int32_t i = 0; i < LFWD_INPUT; i++) {
        const float difference = given[i] - input[i];
        sum += difference * difference;
    }
    return sum / (float)LFWD_INPUT;
}

float lfwd_recording_add(lfwd_recording *recording, float score)
{
    recording->windows++;
    recording->score += (score - recording->score) / (float)recording->windows;
    return recording->score;
}

void lfwd_normal_clear(lfwd_normal *normal)
{
    normal->mean = normal->squares = 0.0f;
    normal->count = 0;
}

uint32_t lfwd_normal_add(lfwd_normal *normal, float score)
{
    if (score > 0.0f && score <= FLT_MAX) {
        const float level = logf(score), away = level - normal->mean;
        normal->count++;
        normal->mean += away / (float)normal->count;
        normal->squares += away * (level - normal->mean);
    }
    return normal->count;
}

/* What a variable of Student's distribution exceeds with this chance: Abramowitz and Stegun 1964, 26.2.23 and 26.7.5. */
static float student(float share, float freedom)
{
    const float t = sqrtf(-2.0f * logf(share));
    const float z = t - (2.515517f + t * (0.802853f + t * 0.010328f)) / (1.0f + t * (1.432788f + t * (0.189269f + t * 0.001308f)));
    const float s = z * z, f = 1.0f / freedom;
    const float first = (s + 1.0f) / 4.0f;
    const float second = ((5.0f * s + 16.0f) * s + 3.0f) / 96.0f;
    const float third = (((3.0f * s + 19.0f) * s + 17.0f) * s - 15.0f) / 384.0f;
    const float fourth = ((((79.0f * s + 776.0f) * s + 1482.0f) * s - 1920.0f) * s - 945.0f) / 92160.0f;
    return z * (1.0f + f * (first + f * (second + f * (third + f * fourth))));
}

int lfwd_normal_calibrate(lfwd_normal *normal, float false_alarms)
{
    if (normal->count < LFWD_FEWEST_NORMAL || !(false_alarms >= LFWD_LEAST_ALARMS && false_alarms <= LFWD_MOST_ALARMS)) return -1;
    const float others = (float)(normal->count - 1u);
    const float spread = sqrtf(normal->squares / others) * sqrtf(1.0f + 1.0f / (float)normal->count);
    normal->threshold = expf(normal->mean + student(false_alarms, others) * spread);
    return 0;
}
