/* The exported step on an emulated Cortex-M, without its NPU: what the simulator has computed is played back. input.bin holds the images, their
 * labels, and then, run by run, a check sum of what the NPU must find (the table of records and the input that the CPU has written) and what it
 * leaves in the arena. A run that finds anything else ends the emulation. What playing back takes is not counted. output.bin: ticks of statistics,
 * of steps without and with an update, and of a prediction; the table, the head. */
#include <stdio.h>
#include <stdlib.h>

#include "board.h"
#include "lfwd_npu.h"
#include "npu_tape.h" /* generated: what is played, and where it goes */

extern void initialise_monitor_handles(void);
static FILE *input, *output;
static uint32_t playing;
static int8_t images[TAPE_IMAGES][LFWD_NPU_INPUT_BYTES];
static uint8_t labels[TAPE_IMAGES];

void board_init(void)
{
    initialise_monitor_handles();
}

static void get(void *data, size_t bytes)
{
    if (fread(data, 1, bytes, input) != bytes) exit(3);
}

static void put(const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, output) != bytes) exit(4);
}

static uint32_t crc32(uint32_t crc, const uint8_t *bytes, size_t count)
{
    crc = ~crc;
    while (count--) {
        crc ^= *bytes++;
        for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
    }
    return ~crc;
}

int lfwd_npu_invoke(const void *commands, int bytes, uint64_t *bases, const size_t *sizes, int count)
{
    const uint32_t start = board_ticks();
    uint8_t *arena = (uint8_t *)(uintptr_t)bases[1];
    const tape_half *half = tape_halves;
    uint32_t expected;
    (void)bytes;
#if LFWD_NPU_WAY_BACK
    if (commands == lfwd_npu_back_commands) half++;
#endif
    (void)commands;
    get(&expected, sizeof expected);
    const uint32_t found = crc32(0, (const uint8_t *)(uintptr_t)bases[3], sizes[3]);
    if (count != 4 || crc32(found, arena + half->input.offset, half->input.size) != expected) exit(7);
    for (int k = 0; k < half->count; k++) get(arena + half->outputs[k].offset, half->outputs[k].size);
    playing += board_ticks() - start;
    return 0;
}

static const int8_t *image(void *context, int number)
{
    (void)context;
    return images[number];
}

int main(void)
{
    uint32_t ticks[4] = {0, 0, 0, 0};
    float logits[LFWD_NPU_CLASSES];
    input = fopen("input.bin", "rb");
    output = fopen("output.bin", "wb");
    if (!input || !output) return 2;
    get(images, sizeof images);
    get(labels, sizeof labels);
    board_start_ticks();
    lfwd_npu_init();
    uint32_t start = board_ticks();
    playing = 0;
    if (lfwd_align_statistics(image, NULL, TAPE_IMAGES)) return 5;
    ticks[0] = board_ticks() - start - playing;
    if (lfwd_train_begin(TAPE_RATE, TAPE_MOMENTUM, TAPE_BATCH, TAPE_IMAGES / TAPE_BATCH)) return 5;
#if LFWD_NPU_ZEROTH_ORDER
    if (lfwd_zeroth_order_begin(TAPE_RATE, TAPE_SPREAD, TAPE_SEED)) return 5;
#endif
#if LFWD_NPU_CONTEXT
    if (lfwd_context_begin(TAPE_RATE, TAPE_SPREAD, TAPE_SHARPNESS, TAPE_SEED)) return 5;
#endif
    for (int n = 0; n < TAPE_IMAGES; n++) {
        start = board_ticks();
        playing = 0;
        if (lfwd_train_step(images[n], labels[n])) return 5;
        ticks[(n + 1) % TAPE_BATCH ? 1 : 2] += board_ticks() - start - playing;
    }
    start = board_ticks();
    playing = 0;
    if (lfwd_predict(images[0], logits)) return 5;
    ticks[3] = board_ticks() - start - playing;
    put(ticks, sizeof ticks);
    put(lfwd_npu.table, LFWD_NPU_TABLE_BYTES);
    put(lfwd_npu.learned.weight, sizeof lfwd_npu.learned.weight);
    put(lfwd_npu.learned.bias, sizeof lfwd_npu.learned.bias);
    put(logits, sizeof logits);
    return fclose(output) ? 6 : 0;
}
