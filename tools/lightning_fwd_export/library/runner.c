/* Adapts on a board: reads samples from `input.bin` over semihosting, writes predictions before and after, reports and weights to
 * `output.bin`. Numbers are little endian, as on all Cortex-M.
 *
 *   input:   uint32 samples, uint32 tests; for each sample int32 label and its floats; for each test its floats. Compiled with RAW=N:
 *            for the floats N of int16, as a sensor gives them. In integers: int8 for floats
 *   output:  logits of all tests (in integers int32, and behind those of each their exponent); the kept stages (uint32) and a report of
 *            each stage; all weights; logits of all tests again; ticks (uint32) of the ends of each stage's rounds, all of them together, of
 *            a prediction, of a step of each stage and, with RAW, of making an input of the last recording
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "board.h"
#include "lfwd_adapt.h"

extern void initialise_monitor_handles(void);

void board_init(void)
{
    initialise_monitor_handles();
}

static FILE *input, *output;
static lfwd_value sample[LFWD_INPUT];
#ifdef LFWD_INTEGER
static int32_t logits[LFWD_CLASSES + 1];
#else
static float logits[LFWD_CLASSES];
#endif
#ifdef RAW
static int16_t raw[RAW];
#endif
static uint8_t weights[LFWD_WEIGHTS_BYTES];
static lfwd_value batch[LFWD_MOST_BATCH * LFWD_INPUT];
static const int64_t classes[LFWD_MOST_BATCH];

static void get(void *data, size_t bytes)
{
    if (fread(data, 1, bytes, input) != bytes) exit(3);
}

static void put(const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, output) != bytes) exit(4);
}

static void get_sample(void)
{
#ifdef RAW
    get(raw, sizeof raw);
    lfwd_prepare(raw, sample);
#else
    get(sample, sizeof sample);
#endif
}

static void forward(void)
{
#ifdef LFWD_INTEGER
    int8_t exponent;
    lfwd_forward(sample, logits, &exponent);
    logits[LFWD_CLASSES] = exponent;
#else
    lfwd_forward(sample, logits);
#endif
}

static void predict(long at, uint32_t tests)
{
    if (fseek(input, at, SEEK_SET) != 0) exit(3);
    for (uint32_t i = 0; i < tests; i++) {
        get_sample();
        forward();
        put(logits, sizeof logits);
    }
}

/* What lies between the rounds of a stage, each on the sums of one sample. */
static uint32_t ticks_of_ends(const lfwd_stage *stage)
{
    uint32_t ticks = 0;
    memcpy(batch, sample, sizeof sample);
    for (uint32_t r = 0; r < stage->rounds_count; r++) {
        for (uint32_t k = 0; k < stage->own_count; k++) memset(stage->own[k].bytes, 0, stage->own[k].count);
        stage->rounds[r].step(batch, classes);
        const uint32_t start = board_ticks();
        stage->rounds[r].end();
        ticks += board_ticks() - start;
    }
    return ticks;
}

int main(void)
{
    const lfwd_adapt_settings settings = LFWD_ADAPT_SETTINGS;
    lfwd_stage_report reports[LFWD_STAGES];
    uint32_t counts[2];
    input = fopen("input.bin", "rb");
    output = fopen("output.bin", "wb");
    if (!input || !output) return 2;
    get(counts, sizeof counts);
    board_start_ticks();
    lfwd_init();
    lfwd_samples_clear(settings.seed);
    for (uint32_t i = 0; i < counts[0]; i++) {
        int32_t label;
        get(&label, sizeof label);
        get_sample();
        (void)lfwd_samples_add(sample, label);
    }
    const long tests = ftell(input);
    predict(tests, counts[1]);
    const uint32_t kept = (uint32_t)lfwd_adapt(&settings, reports);
    put(&kept, sizeof kept);
    for (int i = 0; i < LFWD_STAGES; i++) {
        const lfwd_loss losses[2] = {reports[i].before, reports[i].after};
        const uint32_t numbers[5] = {(uint32_t)reports[i].outcome, reports[i].judged_on, reports[i].epochs, reports[i].lost, reports[i].won};
        put(losses, sizeof losses);
        put(numbers, sizeof numbers);
    }
    lfwd_get_weights(weights);
    put(weights, sizeof weights);
    predict(tests, counts[1]);
    for (int i = 0; i < LFWD_STAGES; i++) {
        const uint32_t ticks = ticks_of_ends(&lfwd_stages[i]);
        put(&ticks, sizeof ticks);
    }
    for (int i = -1; i < LFWD_STAGES; i++) {
        memcpy(batch, sample, sizeof sample);
        const uint32_t start = board_ticks();
        if (i < 0) forward();
        else lfwd_stages[i].step(batch, classes);
        const uint32_t ticks = board_ticks() - start;
        put(&ticks, sizeof ticks);
    }
#ifdef RAW
    const uint32_t start = board_ticks();
    lfwd_prepare(raw, sample);
    const uint32_t ticks = board_ticks() - start;
    put(&ticks, sizeof ticks);
#endif
    return fclose(output) ? 5 : 0;
}
