/* SPDX-License-Identifier: Apache-2.0
 *
 * What a prediction is worth, in float (internal: a part of lfwd_adapt.c). */
#ifndef LFWD_JUDGE_FLOAT_H
#define LFWD_JUDGE_FLOAT_H
#include <math.h>

#include "lfwd_judge_sums.h"

/* Of the logits: a network is judged at that one where its loss is lowest. One that is sure of its errors would gain by becoming unsure. */
static const float scale_of[] = {
    0.015625f, 0.0220970869f, 0.03125f, 0.0441941738f, 0.0625f, 0.0883883476f, 0.125f,
    0.176776695f, 0.25f, 0.353553391f, 0.5f, 0.707106781f, 1.0f, 1.41421356f,
    2.0f, 2.82842712f, 4.0f, 5.65685425f, 8.0f};
#define SCALES ((int)(sizeof scale_of / sizeof scale_of[0]))

/* A prediction; adds its cross-entropy at each scale, or without a label its entropy, to the sums. The class predicted. */
static int32_t predict(const float *input, int32_t label, float sums[SCALES])
{
    float logits[LFWD_CLASSES];
    int32_t answer = 0;
    lfwd_forward(input, logits);
    for (int32_t c = 1; c < LFWD_CLASSES; c++)
        if (logits[c] > logits[answer]) answer = c;
    const float top = logits[answer];
    const int with_label = label != LFWD_UNLABELLED;
    for (int32_t c = 0; c < LFWD_CLASSES; c++) logits[c] -= top;
    for (int k = 0; k < (with_label ? SCALES : 1); k++) {
        const float scale = with_label ? scale_of[k] : 1.0f;
        float sum = 0.0f, mean = 0.0f;
        for (int32_t c = 0; c < LFWD_CLASSES; c++) {
            const float share = expf(scale * logits[c]);
            sum += share;
            mean += share * logits[c];
        }
        sums[k] += logf(sum) - (with_label ? scale * logits[label] : mean / sum);
    }
    return answer;
}
#endif
