/* Adapts a detector of anomalies on a board, and calibrates its threshold there: reads windows from `input.bin` over semihosting, writes
 * `output.bin`. Little endian, as on all Cortex-M.
 *
 *   input:   uint32 windows to adapt with, normal recordings to calibrate by, recordings to judge, windows of a recording; then the floats
 *            of all windows in that order
 *   output:  the kept stages (uint32) and a report of each stage; all weights; scores of the normal recordings, the threshold, scores of
 *            the others (floats); ticks of a score (uint32)
 */
#include <stdio.h>
#include <stdlib.h>

#include "board.h"
#include "lfwd_adapt.h"
#include "lfwd_anomaly.h"

extern void initialise_monitor_handles(void);

void board_init(void)
{
    initialise_monitor_handles();
}

static FILE *input, *output;
static float window[LFWD_INPUT];
static uint8_t weights[LFWD_WEIGHTS_BYTES];
static uint32_t ticks;

static void get(void *data, size_t bytes)
{
    if (fread(data, 1, bytes, input) != bytes) exit(3);
}

static void put(const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, output) != bytes) exit(4);
}

static float listen(uint32_t windows)
{
    lfwd_recording recording = {0.0f, 0};
    for (uint32_t i = 0; i < windows; i++) {
        get(window, sizeof window);
        const uint32_t start = board_ticks();
        const float score = lfwd_anomaly_score(window);
        ticks = board_ticks() - start;
        (void)lfwd_recording_add(&recording, score);
    }
    put(&recording.score, sizeof recording.score);
    return recording.score;
}

int main(void)
{
    const lfwd_adapt_settings settings = LFWD_ADAPT_SETTINGS;
    lfwd_stage_report reports[LFWD_STAGES];
    uint32_t counts[4];
    input = fopen("input.bin", "rb");
    output = fopen("output.bin", "wb");
    if (!input || !output) return 2;
    get(counts, sizeof counts);
    board_start_ticks();
    lfwd_init();
    lfwd_samples_clear(settings.seed);
    for (uint32_t i = 0; i < counts[0]; i++) {
        get(window, sizeof window);
        (void)lfwd_samples_add(window, LFWD_NORMAL);
    }
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
    for (uint32_t i = 0; i < counts[1]; i++) (void)lfwd_normal_add(&lfwd_normal_kept, listen(counts[3]));
    if (lfwd_normal_calibrate(&lfwd_normal_kept, LFWD_FALSE_ALARMS) != 0) return 6;
    put(&lfwd_normal_kept.threshold, sizeof lfwd_normal_kept.threshold);
    for (uint32_t i = 0; i < counts[2]; i++) (void)listen(counts[3]);
    put(&ticks, sizeof ticks);
    return fclose(output) ? 5 : 0;
}
