/* Runs the model's methods on samples from the host: reads records from `input.bin` over semihosting, writes results, ticks and
 * the depth of the stack to `output.bin`. A record is a method number (uint32) and the method's inputs; its answer is ticks
 * (uint32), stack bytes (uint32) and the method's outputs. */
#include <stdio.h>
#include <stdlib.h>

#include "board.h"
#include "lfwd_model.h"
#include "runner_methods.h" /* generated: buffers and one case per method */

extern void initialise_monitor_handles(void);
extern uint8_t __stack_top;
static FILE *input, *output;

void board_init(void)
{
    initialise_monitor_handles();
}

#define STACK_PAINTED (16u * 1024u)
#define PAINT 0xA5u

static void get(void *data, size_t bytes)
{
    if (bytes && fread(data, 1, bytes, input) != bytes) exit(3);
}

static void put(const void *data, size_t bytes)
{
    if (bytes && fwrite(data, 1, bytes, output) != bytes) exit(4);
}

/* Runs one method on a painted stack and says how many bytes of it the call used. */
static __attribute__((noinline)) uint32_t measure(uint32_t method, uint32_t *ticks)
{
    volatile uint8_t *const top = (volatile uint8_t *)__builtin_frame_address(0) - 128;
    volatile uint8_t *const limit = top - STACK_PAINTED;
    for (volatile uint8_t *p = limit; p < top; p++) *p = PAINT;
    const uint32_t start = board_ticks();
    runner_call(method);
    *ticks = board_ticks() - start;
    volatile uint8_t *deepest = limit;
    while (deepest < top && *deepest == PAINT) deepest++;
    return (uint32_t)(top - deepest) + 128u;
}

int main(void)
{
    uint32_t method;
    input = fopen("input.bin", "rb");
    output = fopen("output.bin", "wb");
    if (!input || !output) return 2;
    board_start_ticks();
    lfwd_init();
    while (fread(&method, 1, sizeof method, input) == sizeof method) {
        uint32_t result[2];
        runner_get(method, get);
        result[1] = measure(method, &result[0]);
        put(result, sizeof result);
        runner_put(method, put);
    }
    return fclose(output) ? 5 : 0;
}
