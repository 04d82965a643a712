/* SPDX-License-Identifier: Apache-2.0
 *
 * What is learned has to help on samples held back, or it is taken back. Operations and their order are those of learn/guard.py of the exporter. */
#include <string.h>

#include "lfwd_npu.h"

/* Of the logits: a network is judged at that one where its loss is lowest. One that is sure of its errors would gain by becoming unsure. */
static const float scale_of[] = {
    0.015625f, 0.0220970869f, 0.03125f, 0.0441941738f, 0.0625f, 0.0883883476f, 0.125f, 0.176776695f, 0.25f, 0.353553391f,
    0.5f, 0.707106781f, 1.0f, 1.41421356f, 2.0f, 2.82842712f, 4.0f, 5.65685425f, 8.0f};
#define SCALES ((int)(sizeof scale_of / sizeof scale_of[0]))

/* Loss and answers as it is now. first: against these answers the others are held. */
static int judge(int first, float *loss, int *lost, int *won)
{
    float sums[SCALES] = {0.0f}, logits[LFWD_NPU_CLASSES];
    for (int n = 0; n < lfwd_npu.guard.images; n++) {
        const int label = lfwd_npu.guard.labels[n];
        const int failed = lfwd_predict(lfwd_npu.guard.image(lfwd_npu.guard.context, n), logits);
        if (failed) return failed;
        int answer = 0;
        for (int k = 1; k < LFWD_NPU_CLASSES; k++)
            if (logits[k] > logits[answer]) answer = k;
        const float top = logits[answer];
        for (int k = 0; k < LFWD_NPU_CLASSES; k++) logits[k] = logits[k] - top;
        for (int s = 0; s < SCALES; s++) {
            float sum = 0.0f;
            for (int k = 0; k < LFWD_NPU_CLASSES; k++) sum = sum + lfwd_npu_exp(scale_of[s] * logits[k]);
            sums[s] = sums[s] + (lfwd_npu_log(sum) - scale_of[s] * logits[label]);
        }
        const int is_right = answer == label, was_right = lfwd_npu.guard.right[n / 8] >> n % 8 & 1;
        if (first && is_right) lfwd_npu.guard.right[n / 8] = (uint8_t)(lfwd_npu.guard.right[n / 8] | 1 << n % 8);
        if (!first) *won += is_right && !was_right, *lost += was_right && !is_right;
    }
    *loss = sums[0];
    for (int s = 1; s < SCALES; s++)
        if (sums[s] < *loss) *loss = sums[s];
    *loss = *loss / (float)lfwd_npu.guard.images;
    return 0;
}

int lfwd_guard_begin(lfwd_image image, const uint8_t *labels, void *context, int images)
{
    if (images < 1 || images > LFWD_NPU_MOST_HELD_BACK) return -1;
    for (int n = 0; n < images; n++)
        if (labels[n] >= LFWD_NPU_CLASSES) return -1;
    memset(&lfwd_npu.guard, 0, sizeof lfwd_npu.guard);
    lfwd_npu.guard.image = image;
    lfwd_npu.guard.labels = labels;
    lfwd_npu.guard.context = context;
    lfwd_npu.guard.images = images;
    const int failed = judge(1, &lfwd_npu.guard.before, NULL, NULL);
    if (failed) lfwd_npu.guard.images = 0;
    lfwd_npu.kept = lfwd_npu.learned;
    return failed;
}

int lfwd_guard_end(lfwd_guard_report *report)
{
    lfwd_guard_report found = {0, lfwd_npu.guard.before, 0.0f, 0, 0};
    if (lfwd_npu.guard.images < 1) return -1;
    const int failed = judge(0, &found.after, &found.lost, &found.won);
    if (failed) return failed;
    const int more = found.lost - found.won, differ = found.lost + found.won;
    found.kept = found.after < found.before && !(more > 0 && more * more > differ);
    if (!found.kept) {
        lfwd_npu.learned = lfwd_npu.kept;
        for (int k = 0; k < LFWD_NPU_LAYERS; k++) lfwd_npu_settle(lfwd_npu_layers + k);
        lfwd_npu_forget();
    }
    *report = found;
    return 0;
}
