/* SPDX-License-Identifier: Apache-2.0
 *
 * Shifts and scales of the batch norms learn by the way back of the error, which is the second half of the NPU's program. Operations and their
 * order are those of learn/trainer.py of the exporter. */
#include <math.h>
#include <string.h>

#include "lfwd_npu.h"

#if LFWD_NPU_WAY_BACK
#define SMALLEST_ERROR 1e-30f

void lfwd_npu_way_back_again(void)
{
    memset(lfwd_npu.bias_sum, 0, sizeof lfwd_npu.bias_sum);
    memset(lfwd_npu.scale_sum, 0, sizeof lfwd_npu.scale_sum);
}

int lfwd_npu_way_back(const float *error)
{
    int8_t *arena = (int8_t *)lfwd_npu.arena;
    float largest = SMALLEST_ERROR;
    for (int i = 0; i < LFWD_NPU_FEATURES; i++) {
        float sum = 0.0f;
        for (int k = 0; k < LFWD_NPU_CLASSES; k++) sum = sum + error[k] * lfwd_npu.learned.weight[k][i];
        lfwd_npu.error[i] = sum;
        largest = fmaxf(largest, fabsf(sum));
    }
    for (int i = 0; i < LFWD_NPU_FEATURES; i++) { /* the whole range of int8 */
        const float stored = rintf(lfwd_npu.error[i] / largest / LFWD_NPU_ERROR_SCALE) + (float)LFWD_NPU_ERROR_ZERO_POINT;
        arena[LFWD_NPU_ERROR_OFFSET + i] = (int8_t)fminf(fmaxf(stored, -128.0f), 127.0f);
    }
    const int failed = lfwd_npu_run_stream(lfwd_npu_back_commands, LFWD_NPU_BACK_COMMAND_BYTES, lfwd_npu.table);
    if (failed) return failed;
    for (int k = 0; k < LFWD_NPU_LAYERS; k++) {
        const lfwd_npu_layer *layer = lfwd_npu_layers + k;
        const lfwd_npu_sums *sums = lfwd_npu_gradients + k;
        for (int c = 0; c < layer->channels; c++) {
            float *bias = lfwd_npu.bias_sum + layer->first + c, *scale = lfwd_npu.scale_sum + layer->first + c;
            *bias = *bias + (float)(arena[sums->bias_sum + (uint32_t)c] - sums->bias_zero_point) * sums->bias_step * largest;
            *scale = *scale + (float)(arena[sums->scale_sum + (uint32_t)c] - sums->scale_zero_point) * sums->scale_step * largest;
        }
    }
    return 0;
}

void lfwd_npu_way_back_update(float rate)
{
    const float batch = (float)lfwd_npu.batch, momentum = lfwd_npu.momentum;
    for (int k = 0; k < LFWD_NPU_LAYERS; k++) {
        const lfwd_npu_layer *layer = lfwd_npu_layers + k;
        const lfwd_npu_sums *sums = lfwd_npu_gradients + k;
        for (int c = layer->first; c < layer->first + layer->channels; c++) {
            const float bias_sum = lfwd_npu.bias_sum[c] / batch * sums->of_bias, scale_sum = lfwd_npu.scale_sum[c] / batch * sums->of_scale;
            const float old_shift = lfwd_npu.learned.shift[c], old_scale = lfwd_npu.learned.scale[c];
            /* an output is scale * normalised + shift: the sum of error times normalised follows from the two */
            lfwd_npu.shift_moment[c] = momentum * lfwd_npu.shift_moment[c] + bias_sum;
            lfwd_npu.scale_moment[c] = momentum * lfwd_npu.scale_moment[c] + (scale_sum - old_shift * bias_sum) / old_scale;
            lfwd_npu_norm_move(k, c, old_shift - rate * lfwd_npu.shift_moment[c], old_scale - rate * lfwd_npu.scale_moment[c]);
        }
        lfwd_npu_settle(layer);
    }
    lfwd_npu_way_back_again();
}
#endif
