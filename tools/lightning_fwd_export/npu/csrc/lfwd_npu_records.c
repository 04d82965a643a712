/* SPDX-License-Identifier: Apache-2.0
 *
 * Records, and the runs that read them. */
#include <math.h>
#include <string.h>

#include "lfwd_npu.h"

#define LEAST_OF_SCALE 0.25f
#define SMALLEST_GAIN 1e-4f
#define MOST_BIAS 2147483520.0f /* the largest float below 2^31 */

#ifndef LFWD_NPU_RAM
#define LFWD_NPU_RAM /* where lfwd_npu lies, e.g. -DLFWD_NPU_RAM='__attribute__((section(".sram_of_the_npu")))' */
#endif

lfwd_npu_memory lfwd_npu LFWD_NPU_RAM;

void lfwd_npu_init(void)
{
    memset(&lfwd_npu, 0, sizeof lfwd_npu);
    memcpy(lfwd_npu.table, lfwd_npu_original, LFWD_NPU_TABLE_BYTES);
    memcpy(lfwd_npu.learned.weight, lfwd_npu_head_weight, sizeof lfwd_npu.learned.weight);
    memcpy(lfwd_npu.learned.bias, lfwd_npu_head_bias, sizeof lfwd_npu.learned.bias);
    for (int c = 0; c < LFWD_NPU_CHANNELS; c++) lfwd_npu.learned.gain[c] = 1.0f;
#if LFWD_NPU_NORMS
    lfwd_npu_norms_init();
#endif
}

int lfwd_npu_run_stream(const uint8_t *commands, int bytes, uint8_t *table)
{
    const uint64_t records = (uint64_t)(uintptr_t)table; /* base pointer 2 is the driver's, for a fast memory: here it has no bytes */
    uint64_t bases[4] = {(uint64_t)(uintptr_t)lfwd_npu_constants, (uint64_t)(uintptr_t)lfwd_npu.arena, records, records};
    static const size_t sizes[4] = {LFWD_NPU_CONSTANT_BYTES, LFWD_NPU_ARENA_BYTES, 0, LFWD_NPU_TABLE_BYTES};
    return lfwd_npu_invoke(commands, bytes, bases, sizes, 4);
}

int lfwd_npu_run_on(const int8_t *image, uint8_t *table)
{
    memcpy(lfwd_npu.arena + LFWD_NPU_INPUT_OFFSET, image, LFWD_NPU_INPUT_BYTES);
    return lfwd_npu_run_stream(lfwd_npu_commands, LFWD_NPU_COMMAND_BYTES, table);
}

int lfwd_npu_run(const int8_t *image)
{
    return lfwd_npu_run_on(image, lfwd_npu.table);
}

void lfwd_put_record(uint8_t *record, int32_t bias, float gain)
{
    int exponent;
    uint32_t scale = (uint32_t)(frexpf(gain, &exponent) * 2147483648.0f);
    int shift = 31 - exponent;
    if (shift > 63) {
        scale >>= shift - 63 < 31 ? shift - 63 : 31;
        shift = 63;
    }
    while (scale && scale % 2 == 0 && shift > 0) { /* as the compiler writes it */
        scale /= 2;
        shift--;
    }
    for (int k = 0; k < 4; k++) record[k] = (uint8_t)((uint32_t)bias >> 8 * k);
    record[4] = bias < 0 ? 0xFF : 0; /* the bias has 40 bits */
    for (int k = 0; k < 4; k++) record[5 + k] = (uint8_t)(scale >> 8 * k);
    record[9] = (uint8_t)shift;
}

/* A record of `gain` times the one that was compiled, which was compiled with a weight of `weight` in place of 1. */
static void rewrite(uint8_t *table, uint32_t place, float weight, float gain, float offset)
{
    const uint8_t *original = lfwd_npu_original + place;
    uint32_t bias = 0, multiplier = 0;
    if (weight == 1.0f && gain == 1.0f && offset == 0.0f) { /* as compiled, to the bit */
        memcpy(table + place, original, 10);
        return;
    }
    for (int k = 0; k < 4; k++) bias |= (uint32_t)original[k] << 8 * k, multiplier |= (uint32_t)original[5 + k] << 8 * k;
    const float compiled = ldexpf((float)multiplier, -(original[9] & 0x3F)) / weight;
    const float scale = fmaxf(gain, SMALLEST_GAIN) * compiled;
    const float wanted = rintf((float)(int32_t)bias + offset / scale);
    lfwd_put_record(table + place, (int32_t)fminf(fmaxf(wanted, -MOST_BIAS), MOST_BIAS), scale);
}

void lfwd_npu_put(uint8_t *table, const lfwd_npu_layer *layer, int c, float gain, float offset)
{
    rewrite(table, layer->places[c], 1.0f, gain, offset);
}

void lfwd_npu_settle(const lfwd_npu_layer *layer)
{
    for (int c = 0; c < layer->channels; c++) {
        lfwd_npu_put(lfwd_npu.table, layer, c, lfwd_npu.learned.gain[layer->first + c], lfwd_npu.learned.offset[layer->first + c]);
#if LFWD_NPU_WAY_BACK
        lfwd_npu_put_gain(lfwd_npu_gradients + (layer - lfwd_npu_layers), c, lfwd_npu.learned.gain[layer->first + c]);
#endif
    }
}

#if LFWD_NPU_WAY_BACK
void lfwd_npu_put_gain(const lfwd_npu_sums *sums, int c, float gain)
{
    if (sums->gain_places) rewrite(lfwd_npu.table, sums->gain_places[c], sums->gain_weight, gain, 0.0f);
}
#endif

#if LFWD_NPU_NORMS
void lfwd_npu_norms_init(void)
{
    for (int k = 0; k < LFWD_NPU_LAYERS; k++) {
        const lfwd_npu_layer *layer = lfwd_npu_layers + k;
        memcpy(lfwd_npu.learned.shift + layer->first, lfwd_npu_norms[k].shift, layer->channels * sizeof(float));
        memcpy(lfwd_npu.learned.scale + layer->first, lfwd_npu_norms[k].scale, layer->channels * sizeof(float));
#if LFWD_NPU_WAY_BACK
        lfwd_npu_settle(layer); /* the gains on the way back were compiled a little apart from 1 */
#endif
    }
}

void lfwd_npu_norm_moved(const lfwd_npu_norm *norm, int c, float shift, float scale, float *gain, float *offset)
{
    const float by = scale / lfwd_npu.learned.scale[c];
    *gain = lfwd_npu.learned.gain[c] * by;
    *offset = by * (lfwd_npu.learned.offset[c] - lfwd_npu.learned.shift[c] / norm->step) + shift / norm->step;
}

/* A scale keeps a quarter of what it was trained to: its gradient is divided by it, and so is what rounding did to that. */
void lfwd_npu_norm_move(int layer, int c, float shift, float scale)
{
    const lfwd_npu_norm *norm = lfwd_npu_norms + layer;
    const float kept = fmaxf(scale, LEAST_OF_SCALE * norm->scale[c - lfwd_npu_layers[layer].first]);
    lfwd_npu_norm_moved(norm, c, shift, kept, lfwd_npu.learned.gain + c, lfwd_npu.learned.offset + c);
    lfwd_npu.learned.shift[c] = shift;
    lfwd_npu.learned.scale[c] = kept;
}
#endif
