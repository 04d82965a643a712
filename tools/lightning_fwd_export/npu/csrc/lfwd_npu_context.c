/* SPDX-License-Identifier: Apache-2.0
 *
 * Forward-Forward with the label as a context: every class has a table of records, which differ by an offset for each channel. Positive and negative
 * are the same image under two of them. Operations and their order are those of learn/context.py of the exporter. */
#include <math.h>
#include <string.h>

#include "lfwd_npu.h"

#if LFWD_NPU_CONTEXT
/* Marsaglia's xorshift. */
static uint32_t draw(void)
{
    uint32_t x = lfwd_npu.context_state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    lfwd_npu.context_state = x;
    return x;
}

void lfwd_npu_settle_contexts(void)
{
    for (int label = 0; label < LFWD_NPU_CLASSES; label++) {
        memcpy(lfwd_npu.tables[label], lfwd_npu.table, sizeof lfwd_npu.table);
        for (int k = 0; k < LFWD_NPU_LAYERS; k++) {
            const lfwd_npu_layer *layer = lfwd_npu_layers + k;
            for (int c = 0; c < layer->channels; c++) {
                const int at = layer->first + c;
                const float moved = lfwd_npu.learned.context[label][at] * lfwd_npu.learned.scale[at] / lfwd_npu_norms[k].step;
                lfwd_npu_put(lfwd_npu.tables[label], layer, c, lfwd_npu.learned.gain[at], lfwd_npu.learned.offset[at] + moved);
            }
        }
    }
}

int lfwd_context_begin(float rate, float size, float sharpness, uint32_t seed)
{
    if (seed == 0 || !(rate >= 0.0f && rate < INFINITY)) return -1;
    if (!(size > 0.0f && size < INFINITY) || !(sharpness > 0.0f && sharpness < INFINITY)) return -1;
    lfwd_npu.context_rate = rate;
    lfwd_npu.sharpness = sharpness;
    lfwd_npu.context_state = seed;
    lfwd_npu.learned.contexts = 1;
    for (int k = 0; k < LFWD_NPU_LAYERS; k++) {
        const int first = lfwd_npu_layers[k].first, last = first + lfwd_npu_layers[k].channels;
        for (int label = 0; label < LFWD_NPU_CLASSES; label++)
            for (int c = first; c < last; c++) lfwd_npu.learned.context[label][c] = draw() >> 31 ? 1.0f : -1.0f;
        for (int c = first; c < last; c++) { /* centred over the classes: none is the plain network's */
            float mean = 0.0f;
            for (int label = 0; label < LFWD_NPU_CLASSES; label++) mean = mean + lfwd_npu.learned.context[label][c];
            mean = mean / (float)LFWD_NPU_CLASSES;
            for (int label = 0; label < LFWD_NPU_CLASSES; label++)
                lfwd_npu.learned.context[label][c] = (lfwd_npu.learned.context[label][c] - mean) * size;
        }
    }
    lfwd_npu_context_again();
    return 0;
}

void lfwd_npu_context_again(void)
{
    memset(lfwd_npu.context_gradient, 0, sizeof lfwd_npu.context_gradient);
    memset(lfwd_npu.shift_gradient, 0, sizeof lfwd_npu.shift_gradient);
    if (lfwd_npu.learned.contexts) lfwd_npu_settle_contexts();
}

/* A layer's pooled output in the arena, channel c, real units. */
static float tapped(int k, int c)
{
    const int8_t *tap = (const int8_t *)lfwd_npu.arena + lfwd_npu_layers[k].tap;
    return (float)(tap[c] - lfwd_npu_layers[k].zero_point) * lfwd_npu_norms[k].step;
}

static float goodness(int k)
{
    float sum = 0.0f;
    for (int c = 0; c < lfwd_npu_layers[k].channels; c++) sum = sum + tapped(k, c) * tapped(k, c);
    return sum / (float)lfwd_npu_layers[k].channels;
}

int lfwd_npu_contrast(const int8_t *image, int label)
{
    float up[LFWD_NPU_LAYERS];
    if (!lfwd_npu.learned.contexts) return -1; /* lfwd_context_begin was not called, or was taken back */
    const uint32_t before = lfwd_npu.context_state;
    const int wrong = (int)(((uint32_t)label + 1u + draw() % (LFWD_NPU_CLASSES - 1u)) % LFWD_NPU_CLASSES);
    int failed = lfwd_npu_run_on(image, lfwd_npu.tables[label]);
    for (int k = 0; k < LFWD_NPU_LAYERS && !failed; k++) {
        up[k] = goodness(k);
        for (int c = 0; c < lfwd_npu_layers[k].channels; c++) lfwd_npu.positive[lfwd_npu_layers[k].first + c] = tapped(k, c);
    }
    if (!failed) failed = lfwd_npu_run_on(image, lfwd_npu.tables[wrong]);
    if (failed) { /* nothing of this image counts */
        lfwd_npu.context_state = before;
        return failed;
    }
    for (int k = 0; k < LFWD_NPU_LAYERS; k++) {
        const lfwd_npu_layer *layer = lfwd_npu_layers + k;
        const float margin = -(lfwd_npu.sharpness * (up[k] - goodness(k))), power = lfwd_npu_exp(-fabsf(margin));
        const float share = (margin > 0.0f ? 1.0f : power) / (1.0f + power);
        const float push = lfwd_npu.sharpness * share * (2.0f / (float)layer->channels);
        for (int c = 0; c < layer->channels; c++) {
            const int at = layer->first + c;
            const float raised = push * lfwd_npu.positive[at] * lfwd_npu.learned.scale[at];
            const float lowered = push * tapped(k, c) * lfwd_npu.learned.scale[at];
            lfwd_npu.context_gradient[label][at] = lfwd_npu.context_gradient[label][at] - raised;
            lfwd_npu.context_gradient[wrong][at] = lfwd_npu.context_gradient[wrong][at] + lowered;
            lfwd_npu.shift_gradient[at] = lfwd_npu.shift_gradient[at] + (lowered - raised);
        }
    }
    return 0;
}

void lfwd_npu_context_update(void)
{
    const float batch = (float)lfwd_npu.batch;
    const float rate = lfwd_npu.context_rate * ((float)(lfwd_npu.updates - lfwd_npu.updated) / (float)lfwd_npu.updates);
    for (int k = 0; k < LFWD_NPU_LAYERS; k++) {
        const lfwd_npu_layer *layer = lfwd_npu_layers + k;
        for (int c = layer->first; c < layer->first + layer->channels; c++) {
            const float scale = lfwd_npu.learned.scale[c];
            for (int label = 0; label < LFWD_NPU_CLASSES; label++) {
                float *context = &lfwd_npu.learned.context[label][c];
                *context = *context - rate * (lfwd_npu.context_gradient[label][c] / batch);
            }
            lfwd_npu_norm_move(k, c, lfwd_npu.learned.shift[c] - rate * (lfwd_npu.shift_gradient[c] / batch) * scale, scale);
        }
        lfwd_npu_settle(layer);
    }
    memset(lfwd_npu.context_gradient, 0, sizeof lfwd_npu.context_gradient);
    memset(lfwd_npu.shift_gradient, 0, sizeof lfwd_npu.shift_gradient);
    lfwd_npu_settle_contexts();
}

int lfwd_predict_by_goodness(const int8_t *image, float *found)
{
    if (!lfwd_npu.learned.contexts) return -1;
    for (int label = 0; label < LFWD_NPU_CLASSES; label++) {
        const int failed = lfwd_npu_run_on(image, lfwd_npu.tables[label]);
        if (failed) return failed;
        found[label] = 0.0f;
        for (int k = LFWD_NPU_LAYERS > 1 ? 1 : 0; k < LFWD_NPU_LAYERS; k++) found[label] = found[label] + goodness(k);
    }
    return 0;
}
#endif
