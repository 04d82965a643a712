/* SPDX-License-Identifier: Apache-2.0
 *
 * An adaptation on the device: collect samples, run the stages of lfwd_model.h in order, keep what helps, take back what harms.
 *
 *     lfwd_init();
 *     lfwd_samples_clear(seed);
 *     for every sample: lfwd_samples_add(input, label);        a label of LFWD_UNLABELLED: nobody knows it
 *     lfwd_adapt(&settings, reports);
 *
 * A share of the labelled samples is held back. A stage learns from the others for some epochs; after each it is judged on those held
 * back, against the network before the stage: the loss, each network's at its own best scale of the logits, must be lower, and it may not
 * lose more right answers than it wins by more than the root of both together (McNemar). The best epoch is kept, so one undo copy of what
 * the stage changes is all that is needed; if no epoch is good the copy is the network before the stage. Without labels nothing guards,
 * and stages that learn from labels are left out.
 *
 * A network that reconstructs (LFWD_RECONSTRUCTS, lfwd_anomaly.h) has one class, LFWD_NORMAL, and is judged by its mean squared error.
 *
 * lf.adapt(..., firmware=True) on the host does the same with the same draws: its outcome is what to expect of these samples.
 * One call at a time, as for all of the library. All memory is static, below.
 */
#ifndef LFWD_ADAPT_H
#define LFWD_ADAPT_H
#include <stdint.h>

#include "lfwd_model.h"
#include "lfwd_samples.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef LFWD_BETWEEN_STEPS
#define LFWD_BETWEEN_STEPS() ((void)0) /* called between steps and predictions: feed a watchdog, sleep, yield */
#endif

typedef enum {
    LFWD_KEPT = 0,            /* it helps on the samples held back */
    LFWD_KEPT_UNGUARDED,      /* taken as it is: there are no labels, or none are held back */
    LFWD_ROLLED_BACK,         /* it harms: the weights are those before it */
    LFWD_NOT_FINITE,          /* it diverged: the weights are those before it */
    LFWD_TOO_FEW_SAMPLES,     /* no batch to learn from, or fewer than two samples to judge by: it did not run */
    LFWD_NO_LABELS            /* it learns from labels and there are none: it did not run */
} lfwd_outcome;

#ifdef LFWD_INTEGER
typedef int32_t lfwd_loss;    /* 2^-16 nats */
#else
typedef float lfwd_loss;      /* nats; of a network that reconstructs the mean squared error */
#endif

typedef struct {
    lfwd_outcome outcome;
    lfwd_loss before, after;  /* mean cross-entropy at its own best scale of the logits (without labels: entropy), without
                               * and with the stage */
    uint16_t judged_on;       /* samples */
    uint16_t epochs;          /* that were run; the best one counts */
    uint16_t lost, won;       /* right answers, of those judged */
} lfwd_stage_report;

typedef struct {
    uint32_t seed;            /* of what is held back and of the order of samples */
    uint32_t held_back;       /* share of the labelled samples, in parts of 65536; 0: no guard, no early stopping */
    uint16_t patience;        /* so many epochs in a row without a better result end a stage */
} lfwd_adapt_settings;

/* As given to the export: {seed, held back, patience}. */
#define LFWD_ADAPT_SETTINGS {LFWD_DEFAULT_SEED, LFWD_DEFAULT_HELD_BACK, LFWD_DEFAULT_PATIENCE}

/* All stages in order; a report for each. The number of stages that were kept. */
int lfwd_adapt(const lfwd_adapt_settings *settings, lfwd_stage_report reports[LFWD_STAGES]);

/* The class that the network predicts at present. */
int32_t lfwd_answer(const lfwd_value input[LFWD_INPUT]);

/* What an outcome means, in words. */
const char *lfwd_outcome_text(lfwd_outcome outcome);

#ifdef __cplusplus
}
#endif
#endif
