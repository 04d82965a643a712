/* Start-up for a Cortex-M without vendor files: vectors, FPU and Helium on, .data copied, .bss cleared, main, exit code. */
#include <stdint.h>

#include "board.h"

extern uint32_t __stack_top, __data_start, __data_end, __data_load, __bss_start, __bss_end;
int main(void);
void Reset_Handler(void);

/* Semihosting SYS_EXIT_EXTENDED with the reason "application exit". */
void board_exit(int code)
{
    const uint32_t block[2] = {0x20026, (uint32_t)code};
    register uint32_t operation __asm("r0") = 0x20;
    register const uint32_t *argument __asm("r1") = block;
    __asm volatile("bkpt 0xAB" : : "r"(operation), "r"(argument) : "memory");
    for (;;) {
    }
}

static void Fault_Handler(void) /* a fault must end the emulation, not hang it */
{
    board_exit(99);
}

void Reset_Handler(void)
{
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: coprocessors 10 and 11 */
    __asm volatile("dsb\n isb");
    const uint32_t *from = &__data_load;
    for (uint32_t *to = &__data_start; to < &__data_end;) *to++ = *from++;
    for (uint32_t *to = &__bss_start; to < &__bss_end;) *to++ = 0;
    board_init();
    board_exit(main());
}

typedef void (*vector)(void);
__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    (vector)&__stack_top, Reset_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler,
    Fault_Handler,        0,             0,             0,             0,             Fault_Handler,
    Fault_Handler,        0,             Fault_Handler, Fault_Handler};

void _init(void);
void _fini(void);
void _init(void) {}
void _fini(void) {}
