/* SPDX-License-Identifier: Apache-2.0
 *
 * The last layer, on the CPU: softmax, cross entropy, momentum. Operations and their order are those of learn/head.py of the exporter. */
#include <math.h>
#include <string.h>

#include "lfwd_npu.h"

float lfwd_npu_exp(float x)
{
    if (x < -87.0f) return 0.0f;
    const float n = rintf(x * 1.44269504f), r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    return ldexpf(y * (r * r) + r + 1.0f, (int)n);
}

float lfwd_npu_log(float x)
{
    static const float polynomial[9] = {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                                        -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
    int exponent;
    float m = frexpf(x, &exponent);
    if (m < 0.707106781f) {
        m = m + m - 1.0f;
        exponent--;
    } else {
        m = m - 1.0f;
    }
    const float n = (float)exponent, z = m * m;
    float y = polynomial[0];
    for (int k = 1; k < 9; k++) y = y * m + polynomial[k];
    y = y * m * z;
    y = y + n * -2.12194440e-4f;
    y = y - 0.5f * z;
    return m + y + n * 0.693359375f;
}

void lfwd_npu_read_features(void)
{
    const int8_t *stored = (const int8_t *)lfwd_npu.arena + LFWD_NPU_FEATURES_OFFSET;
    for (int i = 0; i < LFWD_NPU_FEATURES; i++)
        lfwd_npu.features[i] = (float)(stored[i] - LFWD_NPU_FEATURES_ZERO_POINT) * LFWD_NPU_FEATURES_SCALE;
}

void lfwd_npu_logits(float *logits)
{
    for (int k = 0; k < LFWD_NPU_CLASSES; k++) {
        float sum = lfwd_npu.learned.bias[k];
        for (int i = 0; i < LFWD_NPU_FEATURES; i++) sum = sum + lfwd_npu.learned.weight[k][i] * lfwd_npu.features[i];
        logits[k] = sum;
    }
}

void lfwd_npu_softmax(float *logits)
{
    float most = logits[0], sum = 0.0f;
    for (int k = 1; k < LFWD_NPU_CLASSES; k++) most = fmaxf(most, logits[k]);
    for (int k = 0; k < LFWD_NPU_CLASSES; k++) {
        logits[k] = lfwd_npu_exp(logits[k] - most);
        sum = sum + logits[k];
    }
    for (int k = 0; k < LFWD_NPU_CLASSES; k++) logits[k] = logits[k] / sum;
}

int lfwd_predict(const int8_t *image, float *logits)
{
    const int error = lfwd_npu_run(image);
    if (error) return error;
    lfwd_npu_read_features();
    lfwd_npu_logits(logits);
    return 0;
}

void lfwd_npu_forget_batch(void)
{
    lfwd_npu.seen = 0;
    memset(lfwd_npu.weight_gradient, 0, sizeof lfwd_npu.weight_gradient);
    memset(lfwd_npu.bias_gradient, 0, sizeof lfwd_npu.bias_gradient);
#if LFWD_NPU_WAY_BACK
    lfwd_npu_way_back_again();
#endif
#if LFWD_NPU_ZEROTH_ORDER
    lfwd_npu_zeroth_order_again();
#endif
#if LFWD_NPU_CONTEXT
    lfwd_npu_context_again();
#endif
}

void lfwd_npu_forget(void)
{
    memset(lfwd_npu.weight_moment, 0, sizeof lfwd_npu.weight_moment);
    memset(lfwd_npu.bias_moment, 0, sizeof lfwd_npu.bias_moment);
#if LFWD_NPU_WAY_BACK
    memset(lfwd_npu.shift_moment, 0, sizeof lfwd_npu.shift_moment);
    memset(lfwd_npu.scale_moment, 0, sizeof lfwd_npu.scale_moment);
#endif
    lfwd_npu_forget_batch();
}

int lfwd_train_begin(float rate, float momentum, int batch, int updates)
{
    if (batch < 1 || updates < 1 || !(rate >= 0.0f && rate < INFINITY) || !(momentum >= 0.0f && momentum < 1.0f)) return -1;
    lfwd_npu.rate = rate;
    lfwd_npu.momentum = momentum;
    lfwd_npu.batch = batch;
    lfwd_npu.updates = updates;
    lfwd_npu.updated = 0;
    lfwd_npu_forget();
    return 0;
}

static void step(float *value, float *moment, float *gradient, int count, float rate)
{
    for (int i = 0; i < count; i++) {
        moment[i] = lfwd_npu.momentum * moment[i] + gradient[i] / (float)lfwd_npu.batch;
        value[i] = value[i] - rate * moment[i];
        gradient[i] = 0.0f;
    }
}

static void update(void)
{
    const float rate = lfwd_npu.rate * ((float)(lfwd_npu.updates - lfwd_npu.updated) / (float)lfwd_npu.updates);
    step(&lfwd_npu.learned.weight[0][0], &lfwd_npu.weight_moment[0][0], &lfwd_npu.weight_gradient[0][0],
         LFWD_NPU_CLASSES * LFWD_NPU_FEATURES, rate);
    step(lfwd_npu.learned.bias, lfwd_npu.bias_moment, lfwd_npu.bias_gradient, LFWD_NPU_CLASSES, rate);
#if LFWD_NPU_WAY_BACK
    lfwd_npu_way_back_update(rate);
#endif
#if LFWD_NPU_ZEROTH_ORDER
    lfwd_npu_zeroth_order_update();
#endif
#if LFWD_NPU_CONTEXT
    lfwd_npu_context_update();
#endif
    lfwd_npu.updated++;
    lfwd_npu.seen = 0;
}

int lfwd_train_step(const int8_t *image, int label)
{
    float error[LFWD_NPU_CLASSES];
    if (label < 0 || label >= LFWD_NPU_CLASSES || lfwd_npu.batch < 1) return -1;
    if (lfwd_npu.updated >= lfwd_npu.updates) return lfwd_predict(image, error); /* after the last update it only infers */
#if LFWD_NPU_ZEROTH_ORDER
    int failed = lfwd_npu_twice(image, label);
    if (failed) return failed;
    lfwd_npu_logits(error);
#else
    int failed = lfwd_predict(image, error);
    if (failed) return failed;
#endif
    lfwd_npu_softmax(error);
    error[label] = error[label] - 1.0f;
#if LFWD_NPU_WAY_BACK
    failed = lfwd_npu_way_back(error);
    if (failed) return failed; /* nothing of this image counts */
#endif
#if LFWD_NPU_CONTEXT
    failed = lfwd_npu_contrast(image, label);
    if (failed) return failed;
#endif
    for (int k = 0; k < LFWD_NPU_CLASSES; k++) {
        for (int i = 0; i < LFWD_NPU_FEATURES; i++)
            lfwd_npu.weight_gradient[k][i] = lfwd_npu.weight_gradient[k][i] + error[k] * lfwd_npu.features[i];
        lfwd_npu.bias_gradient[k] = lfwd_npu.bias_gradient[k] + error[k];
    }
    if (++lfwd_npu.seen == lfwd_npu.batch) update();
    return 0;
}
