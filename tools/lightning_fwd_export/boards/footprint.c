/* The smallest firmware around the model, to read its Flash and RAM from the linked file: no stdio, no semihosting, the caller's
 * buffers left out. It is linked, never run. */
#include "board.h"
#include "lfwd_model.h"
#include "footprint_methods.h" /* generated: one call per method on `buffer` */

void board_init(void) {}

int main(void)
{
    void *volatile buffer = (void *)0x20000000u;
    lfwd_init();
    footprint_call(buffer);
    return 0;
}
