/* SPDX-License-Identifier: Apache-2.0
 *
 * Shifts and scales of the batch norms learn by inferences alone: all of them a random step forth and a step back, each with a table of records of its
 * own; the losses say which way to go. Operations and their order are those of learn/zeroth_order.py of the exporter. */
#include <math.h>
#include <string.h>

#include "lfwd_npu.h"

#if LFWD_NPU_ZEROTH_ORDER
#define SMALLEST_PROBABILITY 1e-12f

/* Marsaglia's xorshift: the signs of a layer's shifts, then of its scales. */
static uint32_t draw(uint32_t x, int channels)
{
    for (int kind = 0; kind < 2; kind++)
        for (int c = 0; c < channels; c++) {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            lfwd_npu.signs[kind][c] = x >> 31 ? 1.0f : -1.0f;
        }
    return x;
}

/* Draws a direction, and writes the records a step forth and a step back along it. */
static void choose_direction(void)
{
    uint32_t state = lfwd_npu.state;
    lfwd_npu.drawn_from = state;
    for (int way = 0; way < 2; way++) memcpy(lfwd_npu.tables[way], lfwd_npu.table, sizeof lfwd_npu.table);
    for (int k = 0; k < LFWD_NPU_LAYERS; k++) {
        const lfwd_npu_layer *layer = lfwd_npu_layers + k;
        state = draw(state, layer->channels);
        for (int c = 0; c < layer->channels; c++) {
            const float shift = lfwd_npu.learned.shift[layer->first + c], scale = lfwd_npu.learned.scale[layer->first + c];
            for (int way = 0; way < 2; way++) {
                const float by = way ? -lfwd_npu.spread : lfwd_npu.spread;
                float gain, offset;
                lfwd_npu_norm_moved(lfwd_npu_norms + k, layer->first + c, shift + by * lfwd_npu.signs[0][c] * scale,
                                    scale + by * lfwd_npu.signs[1][c] * scale, &gain, &offset);
                lfwd_npu_put(lfwd_npu.tables[way], layer, c, gain, offset);
            }
        }
    }
    lfwd_npu.state = state;
    lfwd_npu.loss[0] = lfwd_npu.loss[1] = 0.0f;
}

int lfwd_zeroth_order_begin(float rate, float spread, uint32_t seed)
{
    if (seed == 0 || !(rate >= 0.0f && rate < INFINITY) || !(spread > 0.0f && spread < INFINITY)) return -1;
    lfwd_npu.zeroth_rate = rate;
    lfwd_npu.spread = spread;
    lfwd_npu.state = seed;
    choose_direction();
    return 0;
}

void lfwd_npu_zeroth_order_again(void)
{
    if (lfwd_npu.state == 0) return;
    lfwd_npu.state = lfwd_npu.drawn_from;
    choose_direction();
}

int lfwd_npu_twice(const int8_t *image, int label)
{
    float loss[2], logits[LFWD_NPU_CLASSES];
    if (lfwd_npu.state == 0) return -1; /* lfwd_zeroth_order_begin was not called */
    for (int way = 0; way < 2; way++) {
        const int failed = lfwd_npu_run_on(image, lfwd_npu.tables[way]);
        if (failed) return failed; /* nothing of this image counts */
        lfwd_npu_read_features();
        lfwd_npu_logits(logits);
        lfwd_npu_softmax(logits);
        loss[way] = -lfwd_npu_log(fmaxf(logits[label], SMALLEST_PROBABILITY));
        if (!way) memcpy(lfwd_npu.first, lfwd_npu.features, sizeof lfwd_npu.first);
    }
    for (int way = 0; way < 2; way++) lfwd_npu.loss[way] = lfwd_npu.loss[way] + loss[way];
    for (int i = 0; i < LFWD_NPU_FEATURES; i++) lfwd_npu.features[i] = (lfwd_npu.first[i] + lfwd_npu.features[i]) * 0.5f;
    return 0;
}

void lfwd_npu_zeroth_order_update(void)
{
    const float batch = (float)lfwd_npu.batch;
    const float slope = (lfwd_npu.loss[0] / batch - lfwd_npu.loss[1] / batch) / (2.0f * lfwd_npu.spread);
    const float rate = lfwd_npu.zeroth_rate * ((float)(lfwd_npu.updates - lfwd_npu.updated) / (float)lfwd_npu.updates);
    const float by = -rate * slope;
    uint32_t state = lfwd_npu.drawn_from;
    for (int k = 0; k < LFWD_NPU_LAYERS; k++) {
        const lfwd_npu_layer *layer = lfwd_npu_layers + k;
        state = draw(state, layer->channels);
        for (int c = 0; c < layer->channels; c++) {
            const float shift = lfwd_npu.learned.shift[layer->first + c], scale = lfwd_npu.learned.scale[layer->first + c];
            lfwd_npu_norm_move(k, layer->first + c, shift + by * lfwd_npu.signs[0][c] * scale, scale + by * lfwd_npu.signs[1][c] * scale);
        }
        lfwd_npu_settle(layer);
    }
    choose_direction();
}
#endif
