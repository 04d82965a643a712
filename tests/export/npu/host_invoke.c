/* The exported code on the host: lfwd_npu_invoke calls what the test gives, images lie in one array. */
#include <math.h>
#include <string.h>

#include "lfwd_npu.h"

static int (*npu)(uint8_t *arena, const uint8_t *table, int half);
static const int8_t *all_images, *held_images;

int lfwd_npu_invoke(const void *commands, int bytes, uint64_t *bases, const size_t *sizes, int count)
{
    int half = 0, expected = LFWD_NPU_COMMAND_BYTES;
#if LFWD_NPU_WAY_BACK
    if (commands == lfwd_npu_back_commands) half = 1, expected = LFWD_NPU_BACK_COMMAND_BYTES;
#endif
    if (count != 4 || bytes != expected || sizes[1] != LFWD_NPU_ARENA_BYTES || sizes[2] || memcmp(commands, "COP1", 4)) return -2;
    if ((uintptr_t)commands % 16 || bases[0] % 16 || bases[2] % 16) return -3; /* what Arm's driver checks */
    /* what the NPU shares with the CPU has cache lines of its own */
    if (bases[1] % LFWD_NPU_LINE || bases[3] % LFWD_NPU_LINE || offsetof(lfwd_npu_memory, learned) % LFWD_NPU_LINE) return -4;
    if (sizeof(lfwd_npu_memory) % LFWD_NPU_LINE || offsetof(lfwd_npu_memory, table) % LFWD_NPU_LINE) return -5;
    return npu((uint8_t *)(uintptr_t)bases[1], (const uint8_t *)(uintptr_t)bases[3], half);
}

static const int8_t *image(void *context, int number)
{
    (void)context;
    return all_images + (size_t)number * LFWD_NPU_INPUT_BYTES;
}

static const int8_t *held(void *context, int number)
{
    (void)context;
    return held_images + (size_t)number * LFWD_NPU_INPUT_BYTES;
}

int host_guard_begin(const int8_t *images, const uint8_t *labels, int count)
{
    held_images = images;
    return lfwd_guard_begin(held, labels, NULL, count);
}

int host_guard_end(float *losses, int *counts)
{
    lfwd_guard_report report;
    const int failed = lfwd_guard_end(&report);
    if (failed) return failed;
    losses[0] = report.before;
    losses[1] = report.after;
    counts[0] = report.kept;
    counts[1] = report.lost;
    counts[2] = report.won;
    return 0;
}

void host_use(int (*function)(uint8_t *, const uint8_t *, int))
{
    npu = function;
    lfwd_npu_init();
}

int host_align(const int8_t *images, int count)
{
    all_images = images;
    return lfwd_align_statistics(image, NULL, count);
}

void host_state(uint8_t *table, float *weight, float *bias)
{
    memcpy(table, lfwd_npu.table, LFWD_NPU_TABLE_BYTES);
    memcpy(weight, lfwd_npu.learned.weight, sizeof lfwd_npu.learned.weight);
    memcpy(bias, lfwd_npu.learned.bias, sizeof lfwd_npu.learned.bias);
}

/* What is called with arguments that it must refuse, one bit each for those that it did not, and whether anything changed. */
int host_hostile(const int8_t *images)
{
    static lfwd_npu_memory before;
    const uint8_t outside[2] = {0, LFWD_NPU_CLASSES};
    int found = 0;
    held_images = all_images = images;
    lfwd_npu_init();
    before = lfwd_npu;
    if (lfwd_train_step(images, 0) != -1) found |= 1;
    if (lfwd_align_statistics(image, NULL, 0) != -1) found |= 2;
    if (lfwd_guard_begin(held, outside, NULL, 2) != -1) found |= 4;
    if (lfwd_train_begin(0.1f, 0.9f, 0, 4) != -1 || lfwd_train_begin(0.1f, 0.9f, 1, 0) != -1) found |= 8;
    if (lfwd_train_begin(NAN, 0.9f, 1, 4) != -1 || lfwd_train_begin(0.1f, 1.0f, 1, 4) != -1) found |= 16;
#if LFWD_NPU_ZEROTH_ORDER
    if (lfwd_zeroth_order_begin(0.1f, 0.1f, 0) != -1 || lfwd_zeroth_order_begin(-0.1f, 0.1f, 1) != -1) found |= 512;
    if (lfwd_zeroth_order_begin(0.1f, 0.0f, 1) != -1 || lfwd_zeroth_order_begin(0.1f, NAN, 1) != -1) found |= 512;
#endif
#if LFWD_NPU_CONTEXT
    if (lfwd_context_begin(0.1f, 0.1f, 1.0f, 0) != -1 || lfwd_context_begin(NAN, 0.1f, 1.0f, 1) != -1) found |= 512;
    if (lfwd_context_begin(0.1f, 0.0f, 1.0f, 1) != -1 || lfwd_context_begin(0.1f, 0.1f, INFINITY, 1) != -1) found |= 512;
#endif
    if (lfwd_align_statistics(image, NULL, LFWD_NPU_MOST_PROBES + 1) != -1) found |= 2;
    if (memcmp(&before, &lfwd_npu, sizeof before)) found |= 32;
    if (lfwd_train_begin(0.1f, 0.9f, 1, 4)) found |= 64;
    before = lfwd_npu;
    if (lfwd_train_step(images, LFWD_NPU_CLASSES) != -1 || lfwd_train_step(images, -1) != -1) found |= 128;
    if (memcmp(&before, &lfwd_npu, sizeof before)) found |= 256;
    lfwd_npu_init();
    return found;
}

void host_begin(float rate, float spread, uint32_t seed)
{
#if LFWD_NPU_ZEROTH_ORDER
    lfwd_zeroth_order_begin(rate, spread, seed);
#elif LFWD_NPU_CONTEXT
    lfwd_context_begin(rate, spread, 2.0f, seed);
#else
    (void)rate, (void)spread, (void)seed;
#endif
}

void host_goodness(const int8_t *image, float *goodness)
{
#if LFWD_NPU_CONTEXT
    lfwd_predict_by_goodness(image, goodness);
#else
    (void)image, (void)goodness;
#endif
}
