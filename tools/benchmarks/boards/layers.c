/* Runs a method twice on one input and writes the ticks of each call of the second run to `layers.txt`, its outputs to `outputs.bin`. */
#include <stdio.h>

#include "board.h"
#include "lfwd_model.h"
#include "method.h" /* generated: inputs, run() and put() */

extern void initialise_monitor_handles(void);
void lfwd_called(void);

void board_init(void)
{
    initialise_monitor_handles();
}

static uint32_t ticks[1024];
static int calls;

void lfwd_called(void) /* after every call of the generated code */
{
    if (calls < 1024) ticks[calls++] = board_ticks();
}

int main(void)
{
    board_start_ticks();
    lfwd_init();
    run();
    calls = 0;
    const uint32_t start = board_ticks();
    run();
    const uint32_t end = board_ticks();
    FILE *file = fopen("outputs.bin", "wb");
    if (!file) return 2;
    put(file);
    if (fclose(file) || !(file = fopen("layers.txt", "w"))) return 2;
    fprintf(file, "%lu\n", (unsigned long)(end - start));
    for (int k = 0; k < calls; k++) fprintf(file, "%lu ", (unsigned long)(ticks[k] - (k ? ticks[k - 1] : start)));
    fprintf(file, "\n");
    return fclose(file) ? 5 : 0;
}
