/* SPDX-License-Identifier: Apache-2.0
 *
 * A network on an NPU that only infers, and what the CPU beside it does so that it learns.
 *
 *     lfwd_npu_init();                                        the records as compiled, the head as trained
 *     lfwd_align_statistics(next_image, context, 256);        no labels: 2 inferences per image and layer
 *     lfwd_train_begin(0.01f, 0.9f, 16, 500);                 rate, momentum, samples per update, updates
 *     lfwd_train_step(image, label);                          one inference, and after every 16th an update; with LFWD_NPU_WAY_BACK the way back
 *                                                             of the error as well, with LFWD_NPU_ZEROTH_ORDER two inferences, with LFWD_NPU_CONTEXT three
 *     lfwd_predict(image, logits);
 *     lfwd_guard_begin(held_back, labels, context, 100);      before any of this: what is learned is judged on samples held back,
 *     lfwd_guard_end(&report);                                after it: and taken back where it does harm
 *
 * Images are int8, channels last: see LFWD_NPU_INPUT_SCALE and _ZERO_POINT. Functions return 0, or what lfwd_npu_invoke returned; -1, and change
 * nothing, for a label outside 0 to LFWD_NPU_CLASSES - 1, fewer than one image or too many, sample per update or update, a rate that is negative or no
 * number, a momentum outside [0, 1), a seed of 0, a spread, size or sharpness that is not above 0, and a step before lfwd_train_begin. */
#ifndef LFWD_NPU_H
#define LFWD_NPU_H

#include <stddef.h>
#include <stdint.h>

#include "lfwd_npu_model.h"

/* Yours: runs the command stream and waits. bases[0]: constants (Flash), bases[1]: arena (RAM, written), bases[3]: table of records (RAM, the CPU
 * has just written to it: clean the data cache). bases[2] has no bytes, and no command stream reads it: Arm's driver puts its fast memory there, if
 * it has one. lfwd_npu_ethosu.c is an example for that driver. */
int lfwd_npu_invoke(const void *commands, int bytes, uint64_t *bases, const size_t *sizes, int count);

typedef const int8_t *(*lfwd_image)(void *context, int number);

void lfwd_npu_init(void);

/* Every channel's mean and spread become the source domain's, or what the batch norms have learned to give since. At any time, also between updates
 * and again: what part of a batch was seen is forgotten, moments stay. At most LFWD_NPU_MOST_PROBES images, whose sums fit into 32 bits. */
#define LFWD_NPU_MOST_PROBES (1 << 23)
int lfwd_align_statistics(lfwd_image image, void *context, int images);
int lfwd_train_begin(float rate, float momentum, int batch, int updates);
int lfwd_train_step(const int8_t *image, int label);
int lfwd_predict(const int8_t *image, float *logits);

/* What a batch has added up so far; other tables of records follow what is learned. And the moments besides. */
void lfwd_npu_forget_batch(void);
void lfwd_npu_forget(void);

/* Samples that are not trained on judge what was learned in between, as lfwd_adapt of the other exports does: the loss, before and after at its
 * own best scale of the logits, must be lower, and no more right answers may be lost than are won and the root of both together (McNemar). Else
 * records and head are those before, bit for bit. Labels 0 to LFWD_NPU_CLASSES - 1. Both return -1 for more than LFWD_NPU_MOST_HELD_BACK images,
 * none, or a label of no class; after an error nothing was taken back, and lfwd_guard_end can be called again.
 * image and labels are read again at the end.
 * What was taken back leaves no moments and no part of a batch; training can go on, its rate falling as before. Contexts that were begun after
 * the guard are none again: lfwd_context_begin before the next step. */
#ifndef LFWD_NPU_MOST_HELD_BACK
#define LFWD_NPU_MOST_HELD_BACK 1024
#endif

typedef struct {
    int kept; /* 0: taken back */
    float before, after; /* mean cross entropy at its best scale of the logits, in nats */
    int lost, won; /* right answers */
} lfwd_guard_report;

int lfwd_guard_begin(lfwd_image image, const uint8_t *labels, void *context, int images);
int lfwd_guard_end(lfwd_guard_report *report);

/* One record: ten bytes that the NPU reads for a channel. gain is above 0. */
void lfwd_put_record(uint8_t *record, int32_t bias, float gain);

/* One inference of an image into the arena; outputs lie at LFWD_NPU_*_OFFSET and at the layers' taps. */
int lfwd_npu_run(const int8_t *image);

/* A command stream on constants, arena as it is, and a table of records. */
int lfwd_npu_run_stream(const uint8_t *commands, int bytes, uint8_t *table);
int lfwd_npu_run_on(const int8_t *image, uint8_t *table);

/* What the head makes of the features in the arena; of those in lfwd_npu.features; and softmax, in place. */
void lfwd_npu_read_features(void);
void lfwd_npu_logits(float *logits);
void lfwd_npu_softmax(float *logits);

/* exp(x) for x <= 0 and log(x) for x > 0, after Cephes: the same on every machine with IEEE floats. */
float lfwd_npu_exp(float x);
float lfwd_npu_log(float x);

/* A layer whose channels' gains and offsets are learned. The arrays have one entry per channel. */
typedef struct {
    uint16_t channels;
    uint16_t first; /* of its channels among those of all layers */
    int16_t zero_point;
    uint32_t tap; /* in the arena: pooled output, int8 */
    const uint32_t *places; /* of the records in the table */
    const float *mean, *spread; /* of the source domain */
} lfwd_npu_layer;

extern const lfwd_npu_layer lfwd_npu_layers[LFWD_NPU_LAYERS];

/* Rewrites channel c's record so that it stores zero_point + gain * (as compiled - zero_point) + offset; c counts the layer's channels. */
void lfwd_npu_put(uint8_t *table, const lfwd_npu_layer *layer, int c, float gain, float offset);

/* Sets every record of a layer to what was learned. */
void lfwd_npu_settle(const lfwd_npu_layer *layer);

#if LFWD_NPU_NORMS
/* What learns of a layer besides: its batch norm. */
typedef struct {
    float step; /* of the layer's output */
    const float *shift, *scale; /* as trained */
} lfwd_npu_norm;

extern const lfwd_npu_norm lfwd_npu_norms[LFWD_NPU_LAYERS];

void lfwd_npu_norms_init(void);

/* Gain and offset of channel c, counted over all layers, with another shift and scale; and to take them. */
void lfwd_npu_norm_moved(const lfwd_npu_norm *norm, int c, float shift, float scale, float *gain, float *offset);
void lfwd_npu_norm_move(int layer, int c, float shift, float scale);
#endif

#if LFWD_NPU_WAY_BACK
/* The second command stream gives, per channel, the sum over positions of the error at a layer's output, and of error times output. */
typedef struct {
    uint32_t bias_sum, scale_sum; /* in the arena, int8 */
    float bias_step, scale_step;
    int16_t bias_zero_point, scale_zero_point;
    float of_bias, of_scale; /* what brings the sums to those of the float network */
    const uint32_t *gain_places; /* of the records that multiply the error by the layer's gain on its way further down; NULL in the lowest layer */
    float gain_weight; /* that they were compiled with */
} lfwd_npu_sums;

extern const lfwd_npu_sums lfwd_npu_gradients[LFWD_NPU_LAYERS];
extern const uint8_t lfwd_npu_back_commands[LFWD_NPU_BACK_COMMAND_BYTES];

void lfwd_npu_put_gain(const lfwd_npu_sums *sums, int c, float gain);
void lfwd_npu_way_back_again(void);
int lfwd_npu_way_back(const float *error); /* of the last image, at the logits; adds up its gradients */
void lfwd_npu_way_back_update(float rate);
#endif

#if LFWD_NPU_ZEROTH_ORDER
/* After statistics and lfwd_train_begin: rate and spread relative to a channel's scale; the seed of the signs is not 0. */
int lfwd_zeroth_order_begin(float rate, float spread, uint32_t seed);
int lfwd_npu_twice(const int8_t *image, int label); /* adds up the losses; leaves the mean features */
void lfwd_npu_zeroth_order_update(void);
void lfwd_npu_zeroth_order_again(void); /* the same direction, from what is learned now */
#endif

#if LFWD_NPU_CONTEXT
/* After statistics and lfwd_train_begin: rate and size of the contexts relative to a channel's scale; the seed of contexts and wrong labels is
 * not 0. lfwd_predict uses the head; by goodness it takes an inference per class, and the best is the largest. */
int lfwd_context_begin(float rate, float size, float sharpness, uint32_t seed);
int lfwd_predict_by_goodness(const int8_t *image, float *goodness);
int lfwd_npu_contrast(const int8_t *image, int label); /* under a right and a wrong label; adds up the gradients */
void lfwd_npu_context_update(void);
void lfwd_npu_context_again(void);
void lfwd_npu_settle_contexts(void); /* the tables of all classes */
#endif

extern const uint8_t lfwd_npu_commands[LFWD_NPU_COMMAND_BYTES], lfwd_npu_constants[LFWD_NPU_CONSTANT_BYTES];
extern const uint8_t lfwd_npu_original[LFWD_NPU_TABLE_BYTES]; /* the records as compiled */
extern const float lfwd_npu_head_weight[LFWD_NPU_CLASSES][LFWD_NPU_FEATURES], lfwd_npu_head_bias[LFWD_NPU_CLASSES];

/* What is learned; the table of records follows from it. */
typedef struct {
    float gain[LFWD_NPU_CHANNELS], offset[LFWD_NPU_CHANNELS]; /* of all layers that learn; offset in steps of int8 */
    float weight[LFWD_NPU_CLASSES][LFWD_NPU_FEATURES], bias[LFWD_NPU_CLASSES];
#if LFWD_NPU_NORMS
    float shift[LFWD_NPU_CHANNELS], scale[LFWD_NPU_CHANNELS]; /* of all batch norms that learn */
#endif
#if LFWD_NPU_CONTEXT
    float context[LFWD_NPU_CLASSES][LFWD_NPU_CHANNELS]; /* in units of a channel's scale */
    int contexts; /* 0 until lfwd_context_begin */
#endif
} lfwd_npu_learned;

/* Bytes of a line of the data cache. What the NPU reads and writes shares none with what the CPU writes meanwhile. */
#ifndef LFWD_NPU_LINE
#define LFWD_NPU_LINE 32
#endif
#define LFWD_NPU_LINES(bytes) (((bytes) + LFWD_NPU_LINE - 1) / LFWD_NPU_LINE * LFWD_NPU_LINE)

/* Everything in RAM; LFWD_NPU_RAM says where (lfwd_npu_records.c). */
typedef struct {
    uint8_t arena[LFWD_NPU_LINES(LFWD_NPU_ARENA_BYTES)] __attribute__((aligned(LFWD_NPU_LINE)));
    uint8_t table[LFWD_NPU_LINES(LFWD_NPU_TABLE_BYTES)];
#if LFWD_NPU_ZEROTH_ORDER
    uint8_t tables[2][LFWD_NPU_LINES(LFWD_NPU_TABLE_BYTES)]; /* records a step forth and a step back */
#endif
#if LFWD_NPU_CONTEXT
    uint8_t tables[LFWD_NPU_CLASSES][LFWD_NPU_LINES(LFWD_NPU_TABLE_BYTES)]; /* records under each label */
#endif
    lfwd_npu_learned learned, kept; /* now, and when the guard began */
    int32_t sums[LFWD_NPU_MOST_CHANNELS];
    float measured[LFWD_NPU_MOST_CHANNELS];
    float features[LFWD_NPU_FEATURES];
    float weight_moment[LFWD_NPU_CLASSES][LFWD_NPU_FEATURES], bias_moment[LFWD_NPU_CLASSES];
    float weight_gradient[LFWD_NPU_CLASSES][LFWD_NPU_FEATURES], bias_gradient[LFWD_NPU_CLASSES];
#if LFWD_NPU_WAY_BACK
    float error[LFWD_NPU_FEATURES];
    float shift_moment[LFWD_NPU_CHANNELS], scale_moment[LFWD_NPU_CHANNELS];
    float bias_sum[LFWD_NPU_CHANNELS], scale_sum[LFWD_NPU_CHANNELS];
#endif
#if LFWD_NPU_ZEROTH_ORDER
    float first[LFWD_NPU_FEATURES], signs[2][LFWD_NPU_MOST_CHANNELS], loss[2], zeroth_rate, spread;
    uint32_t drawn_from, state;
#endif
#if LFWD_NPU_CONTEXT
    float context_gradient[LFWD_NPU_CLASSES][LFWD_NPU_CHANNELS], shift_gradient[LFWD_NPU_CHANNELS], positive[LFWD_NPU_CHANNELS];
    float context_rate, sharpness;
    uint32_t context_state;
#endif
    float rate, momentum;
    int batch, updates, seen, updated;
    struct {
        lfwd_image image;
        const uint8_t *labels;
        void *context;
        int images;
        float before;
        uint8_t right[(LFWD_NPU_MOST_HELD_BACK + 7) / 8]; /* a bit per image */
    } guard;
} lfwd_npu_memory;

extern lfwd_npu_memory lfwd_npu;

#endif
