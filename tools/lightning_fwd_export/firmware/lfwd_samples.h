/* SPDX-License-Identifier: Apache-2.0
 *
 * The samples that a device learns from: a class-balanced reservoir (Chrysakis and Moens, ICML 2020). What lfwd_adapt.h runs on. */
#ifndef LFWD_SAMPLES_H
#define LFWD_SAMPLES_H
#include <stdint.h>

#include "lfwd_model.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef LFWD_SAMPLES
#define LFWD_SAMPLES LFWD_DEFAULT_SAMPLES /* room of the buffer, at most 65535; or -DLFWD_SAMPLES=... */
#endif
/* -DLFWD_SAMPLES_INT8: the buffer keeps a byte for each value and a scale for each sample, a quarter of the memory. (Integers it keeps as
 * they are.) */

#ifndef LFWD_ADAPT_RAM
#define LFWD_ADAPT_RAM /* where buffer and undo copy lie, e.g. -DLFWD_ADAPT_RAM='__attribute__((section(".sdram")))' */
#endif

#define LFWD_UNLABELLED (-1)

/* Forget all samples. The seed decides which samples stay once the buffer is full. */
void lfwd_samples_clear(uint32_t seed);

/* Give it a sample and its label, 0 .. LFWD_CLASSES - 1, or LFWD_UNLABELLED. The buffer keeps about as many of each class; unlabelled
 * samples are one more. The slot that it was written to, or -1: not taken, or not a label. */
int32_t lfwd_samples_add(const lfwd_value input[LFWD_INPUT], int32_t label);

/* How many samples there are of a label. */
uint16_t lfwd_samples_of(int32_t label);

/* How many there are, and slot by slot their labels and inputs. */
uint32_t lfwd_samples_count(void);
int32_t lfwd_samples_label(uint32_t slot);
void lfwd_samples_get(uint32_t slot, lfwd_value input[LFWD_INPUT]);

/* Where the draws of a window of a seed begin; draw i is lfwd_hash32(start + i). What is drawn of samples is drawn so. */
uint32_t lfwd_draws_of(uint32_t seed, uint32_t window);

#ifdef __cplusplus
}
#endif
#endif
