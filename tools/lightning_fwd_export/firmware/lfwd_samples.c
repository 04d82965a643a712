/* SPDX-License-Identifier: Apache-2.0
 *
 * The buffer of samples; lfwd_samples.h says how. Line by line what lightning_fwd.adaptation.draws.Buffer does on the host. */
#include "lfwd_samples.h"

#ifdef LFWD_SAMPLES_INT8
#include <math.h>
#endif
#include <string.h>

#include "lfwd_random.h"

#if LFWD_SAMPLES < 1 || LFWD_SAMPLES > 65535
#error "LFWD_SAMPLES is 1 to 65535"
#endif
#define KINDS (LFWD_CLASSES + 1) /* the labels, after them "none" */

#ifdef LFWD_SAMPLES_INT8
static int8_t inputs[LFWD_SAMPLES][LFWD_INPUT] LFWD_ADAPT_RAM;
static float scales[LFWD_SAMPLES] LFWD_ADAPT_RAM;
#else
static lfwd_value inputs[LFWD_SAMPLES][LFWD_INPUT] LFWD_ADAPT_RAM;
#endif
static int16_t labels[LFWD_SAMPLES] LFWD_ADAPT_RAM;
static uint32_t samples, added, buffer_draws, seen[KINDS];
static uint16_t counts[KINDS];
static uint8_t was_largest[KINDS];

uint32_t lfwd_draws_of(uint32_t seed, uint32_t window)
{
    return lfwd_hash32(lfwd_hash32(seed) + window);
}

static uint32_t kind_of(int32_t label)
{
    return label == LFWD_UNLABELLED ? 0u : (uint32_t)label + 1u;
}

void lfwd_samples_clear(uint32_t seed)
{
    samples = added = 0;
    buffer_draws = lfwd_draws_of(seed, 0);
    memset(seen, 0, sizeof seen);
    memset(counts, 0, sizeof counts);
    memset(was_largest, 0, sizeof was_largest);
}

/* The slot of a sample of this kind once the buffer is full, or -1 (Chrysakis and Moens 2020, algorithm 1). */
static int32_t replaced_by(uint32_t kind, uint32_t first_draw)
{
    uint32_t from = 0;
    for (uint32_t k = 1; k < KINDS; k++)
        if (counts[k] > counts[from]) from = k;
    for (uint32_t k = 0; k < KINDS; k++)
        if (counts[k] == counts[from]) was_largest[k] = 1;
    if (was_largest[kind]) {
        if (lfwd_hash32(first_draw) % seen[kind] >= counts[kind]) return -1;
        from = kind;
    }
    uint32_t which = lfwd_hash32(first_draw + 1u) % counts[from];
    for (int32_t slot = 0; slot < LFWD_SAMPLES; slot++)
        if (kind_of(labels[slot]) == from && which-- == 0) return slot;
    return -1; /* counts say that there is one */
}

static void write_input(uint32_t slot, const lfwd_value *input)
{
#ifdef LFWD_SAMPLES_INT8
    float peak = 0.0f;
    for (uint32_t i = 0; i < LFWD_INPUT; i++) peak = fmaxf(peak, fabsf(input[i]));
    const float factor = peak > 0.0f ? 127.0f / peak : 0.0f;
    for (uint32_t i = 0; i < LFWD_INPUT; i++) inputs[slot][i] = (int8_t)nearbyintf(input[i] * factor);
    scales[slot] = peak / 127.0f;
#else
    memcpy(inputs[slot], input, sizeof inputs[slot]);
#endif
}

int32_t lfwd_samples_add(const lfwd_value input[LFWD_INPUT], int32_t label)
{
    if (label < LFWD_UNLABELLED || label >= LFWD_CLASSES) return -1;
    const uint32_t kind = kind_of(label), first_draw = buffer_draws + 2u * added;
    int32_t slot = (int32_t)samples;
    added++;
    seen[kind]++;
    if (samples < LFWD_SAMPLES) {
        samples++;
    } else {
        slot = replaced_by(kind, first_draw);
        if (slot < 0) return -1;
        counts[kind_of(labels[slot])]--;
    }
    counts[kind]++;
    labels[slot] = (int16_t)label;
    write_input((uint32_t)slot, input);
    return slot;
}

uint16_t lfwd_samples_of(int32_t label)
{
    return label < LFWD_UNLABELLED || label >= LFWD_CLASSES ? (uint16_t)0 : counts[kind_of(label)];
}

uint32_t lfwd_samples_count(void)
{
    return samples;
}

int32_t lfwd_samples_label(uint32_t slot)
{
    return labels[slot];
}

void lfwd_samples_get(uint32_t slot, lfwd_value input[LFWD_INPUT])
{
#ifdef LFWD_SAMPLES_INT8
    for (uint32_t i = 0; i < LFWD_INPUT; i++) input[i] = (float)inputs[slot][i] * scales[slot];
#else
    memcpy(input, inputs[slot], sizeof inputs[slot]);
#endif
}
