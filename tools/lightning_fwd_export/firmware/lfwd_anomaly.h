/* SPDX-License-Identifier: Apache-2.0
 *
 * Anomalies: what a network that was trained on normal samples cannot reconstruct. No labels, no heap.
 *
 *     lfwd_recording recording = {0.0f, 0};
 *     for every window: score = lfwd_recording_add(&recording, lfwd_anomaly_score(input));
 *     if (score > lfwd_normal_kept.threshold) ...                   the source's, until there is one of this place
 *
 * After drift: collect normal windows (lfwd_samples_add(input, LFWD_NORMAL)), lfwd_adapt, and then, for the network has changed, listen to
 * normal recordings that were not among them:
 *
 *     lfwd_normal_clear(&lfwd_normal_kept);
 *     for every recording: lfwd_normal_add(&lfwd_normal_kept, its score);
 *     lfwd_normal_calibrate(&lfwd_normal_kept, LFWD_FALSE_ALARMS);
 *
 * What is watched window by window is calibrated by windows. A threshold belongs to the weights that it was made with: lfwd_save keeps both
 * in one slot. lightning_fwd.adaptation.anomaly says how the threshold is found, and does the same on the host. */
#ifndef LFWD_ANOMALY_H
#define LFWD_ANOMALY_H
#include <stdint.h>

#include "lfwd_anomaly_tables.h"
#include "lfwd_model.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LFWD_NORMAL 0            /* the label of every sample */
#define LFWD_FEWEST_NORMAL 8     /* scores that a threshold is made of */
#define LFWD_LEAST_ALARMS 1e-4f  /* shares of false alarms that can be asked for */
#define LFWD_MOST_ALARMS 0.5f

/* The mean squared difference of what the network reads and what it gives. */
float lfwd_anomaly_score(const float input[LFWD_INPUT]);

/* Of a recording so far; begin with {0.0f, 0}. */
typedef struct {
    float score; /* mean over its windows */
    uint32_t windows;
} lfwd_recording;

/* Its score with one more window. */
float lfwd_recording_add(lfwd_recording *recording, float score);

/* No scores are known; the threshold stays until the next is found. */
void lfwd_normal_clear(lfwd_normal *normal);

/* One more; what is no positive finite number is left out. How many there are. */
uint32_t lfwd_normal_add(lfwd_normal *normal, float score);

/* The threshold above which so many normal samples lie. 0; or -1, and it stays as it is: too few scores, or a share out of range. */
int lfwd_normal_calibrate(lfwd_normal *normal, float false_alarms);

#ifdef __cplusplus
}
#endif
#endif
