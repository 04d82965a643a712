/* SPDX-License-Identifier: Apache-2.0
 *
 * Mean and spread of every channel, measured by probing records, and set to the source domain's. The method is explained in learn/statistics.py of
 * the exporter; operations and their order are the same as there. */
#include <math.h>
#include <string.h>

#include "lfwd_npu.h"

#define PROBING_GAIN 0.25f
#define LEAST_SPREAD 0.05f
#define LEAST_GAIN 0.2f
#define MOST_GAIN 5.0f
#define LOWEST (-128)
#define GROUPS 4

static const float dither[GROUPS] = {-0.375f, -0.125f, 0.125f, 0.375f};

/* Sums of a layer's pooled output over images start..stop. */
static int add_up(const lfwd_npu_layer *layer, lfwd_image image, void *context, int start, int stop)
{
    const int8_t *tap = (const int8_t *)lfwd_npu.arena + layer->tap;
    memset(lfwd_npu.sums, 0, sizeof lfwd_npu.sums);
    for (int n = start; n < stop; n++) {
        const int error = lfwd_npu_run(image(context, n));
        if (error) return error;
        for (int c = 0; c < layer->channels; c++) lfwd_npu.sums[c] += tap[c];
    }
    return 0;
}

/* What channel c is brought back to: the source domain's, moved as its batch norm was since it was trained. */
static void aim(int k, int c, float *mean, float *spread)
{
    *mean = lfwd_npu_layers[k].mean[c];
    *spread = lfwd_npu_layers[k].spread[c];
#if LFWD_NPU_NORMS
    const lfwd_npu_norm *norm = lfwd_npu_norms + k;
    *mean = *mean + (lfwd_npu.learned.shift[lfwd_npu_layers[k].first + c] - norm->shift[c]) / norm->step;
    *spread = *spread * (lfwd_npu.learned.scale[lfwd_npu_layers[k].first + c] / norm->scale[c]);
#endif
}

static int align(int k, lfwd_image image, void *context, int images)
{
    const lfwd_npu_layer *layer = lfwd_npu_layers + k;
    float *gain = lfwd_npu.learned.gain + layer->first, *offset = lfwd_npu.learned.offset + layer->first, *mean = lfwd_npu.measured;
    int error = 0;
    memset(mean, 0, sizeof lfwd_npu.measured);
    for (int group = 0; group < GROUPS && !error; group++) {
        const int start = images * group / GROUPS, stop = images * (group + 1) / GROUPS;
        for (int c = 0; c < layer->channels; c++) {
            const float centred = offset[c] * PROBING_GAIN + (float)-layer->zero_point;
            lfwd_npu_put(lfwd_npu.table, layer, c, gain[c] * PROBING_GAIN, centred + dither[group]);
        }
        error = add_up(layer, image, context, start, stop);
        for (int c = 0; c < layer->channels; c++) mean[c] = mean[c] + ((float)lfwd_npu.sums[c] - (float)(stop - start) * dither[group]);
    }
    for (int c = 0; c < layer->channels; c++) {
        mean[c] = mean[c] / (float)images / PROBING_GAIN;
        lfwd_npu_put(lfwd_npu.table, layer, c, gain[c], offset[c] - mean[c] + (float)(LOWEST - layer->zero_point));
    }
    if (!error) error = add_up(layer, image, context, 0, images);
    for (int c = 0; c < layer->channels && !error; c++) {
        const float spread = (float)(lfwd_npu.sums[c] - LOWEST * images) / (float)images;
        float wanted_mean, wanted_spread;
        aim(k, c, &wanted_mean, &wanted_spread);
        const float by = fminf(fmaxf(wanted_spread / fmaxf(spread, LEAST_SPREAD), LEAST_GAIN), MOST_GAIN);
        offset[c] = by * (offset[c] - mean[c]) + wanted_mean;
        gain[c] = gain[c] * by;
    }
    lfwd_npu_settle(layer); /* after an error: as before */
    return error;
}

int lfwd_align_statistics(lfwd_image image, void *context, int images)
{
    int error = 0;
    if (images < 1 || images > LFWD_NPU_MOST_PROBES) return -1;
    for (int k = 0; k < LFWD_NPU_LAYERS && !error; k++) error = align(k, image, context, images);
    lfwd_npu_forget_batch(); /* it was of the network before; after an error some layers are aligned */
    return error;
}
