/* Runs lfwd_forward twice on one input and writes to `layers.txt` the ticks of each call of the second run, then its output. */
#include <stdio.h>

#include "board.h"
#include "input.h" /* generated: the input */
#include "lfwd_model.h"

extern void initialise_monitor_handles(void);
void lfwd_called(void);

void board_init(void)
{
    initialise_monitor_handles();
}

static uint32_t ticks[256];
static int calls;

void lfwd_called(void) /* after every call of the generated code */
{
    if (calls < 256) ticks[calls++] = board_ticks();
}

int main(void)
{
    static int8_t output[LFWD_FORWARD_OUT0];
    board_start_ticks();
    lfwd_init();
    lfwd_forward(input, output);
    calls = 0;
    const uint32_t start = board_ticks();
    lfwd_forward(input, output);
    const uint32_t end = board_ticks();
    FILE *file = fopen("layers.txt", "w");
    if (!file) return 2;
    fprintf(file, "%lu\n", (unsigned long)(end - start));
    for (int k = 0; k < calls; k++) fprintf(file, "%lu ", (unsigned long)(ticks[k] - (k ? ticks[k - 1] : start)));
    fprintf(file, "\n");
    for (int k = 0; k < LFWD_FORWARD_OUT0; k++) fprintf(file, "%d ", output[k]);
    return fclose(file) ? 5 : 0;
}
