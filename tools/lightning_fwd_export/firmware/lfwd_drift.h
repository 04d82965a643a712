/* SPDX-License-Identifier: Apache-2.0
 *
 * Noticing drift: how far the means of the network's features have moved, measured in the source's spread. No labels, no heap.
 *
 *     lfwd_drift_clear();
 *     for every input: lfwd_watch(input, logits, features);       a prediction that hands its features out
 *                      if (lfwd_drift_add(features) > LFWD_DRIFT_THRESHOLD) collect labelled samples, lfwd_adapt, lfwd_drift_clear
 *
 * The threshold was calibrated at export on data without drift, for the share of false alarms that the header names. */
#ifndef LFWD_DRIFT_H
#define LFWD_DRIFT_H
#include "lfwd_drift_tables.h"
#include "lfwd_model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* From no drift on. */
void lfwd_drift_clear(void);

/* The score with one more input; features that are no numbers count as the mean. */
float lfwd_drift_add(const float features[LFWD_FEATURES]);

#ifdef __cplusplus
}
#endif
#endif
