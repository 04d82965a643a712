/* SPDX-License-Identifier: Apache-2.0
 *
 * An example firmware: predict, collect samples, adapt, predict again. Its samples are constants (samples.h); yours come from a sensor.
 * Output goes over semihosting: a debugger's console, or the emulator's. */
#include <stdio.h>

#include "board.h"
#include "lfwd_adapt.h"
#include "samples.h"

extern void initialise_monitor_handles(void);

void board_init(void)
{
    initialise_monitor_handles();
}

static unsigned right_answers(void)
{
    unsigned right = 0;
    for (int i = 0; i < TESTS; i++) right += lfwd_answer(test_inputs[i]) == test_labels[i];
    return right;
}

int main(void)
{
    const lfwd_adapt_settings settings = LFWD_ADAPT_SETTINGS;
    lfwd_stage_report reports[LFWD_STAGES];
    lfwd_init();
    printf("before: %u of %d right\n", right_answers(), TESTS);
    lfwd_samples_clear(settings.seed);
    for (int i = 0; i < SAMPLES; i++) (void)lfwd_samples_add(sample_inputs[i], sample_labels[i]);
    const int kept = lfwd_adapt(&settings, reports);
    for (int i = 0; i < LFWD_STAGES; i++)
        printf("%s: %s, %u epochs, on %u samples\n", lfwd_stages[i].name, lfwd_outcome_text(reports[i].outcome), reports[i].epochs,
               reports[i].judged_on);
    printf("after: %u of %d right, %d of %d stages kept\n", right_answers(), TESTS, kept, LFWD_STAGES);
    return 0;
}
