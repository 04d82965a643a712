/* What a board offers the runner: a tick counter and an exit. Ticks are turned into instructions by the host. */
#ifndef BOARD_H
#define BOARD_H
#include <stdint.h>

void board_init(void); /* defined by the runner (stdio over semihosting) or by the footprint (nothing) */
void board_exit(int code) __attribute__((noreturn));

#if defined(BOARD_SSE_COUNTER) /* mps3-an547: system counter, 32 MHz, counts up */
static inline void board_start_ticks(void) { *(volatile uint32_t *)0x58100000u = 1; }
static inline uint32_t board_ticks(void) { return *(volatile uint32_t *)0x48000000u; }
#else /* mps2: CMSDK timer 0, 25 MHz, counts down */
static inline void board_start_ticks(void)
{
    volatile uint32_t *timer = (volatile uint32_t *)0x40000000u;
    timer[2] = timer[1] = 0xFFFFFFFFu;
    timer[0] = 1;
}
static inline uint32_t board_ticks(void) { return 0xFFFFFFFFu - ((volatile uint32_t *)0x40000000u)[1]; }
#endif
#endif
