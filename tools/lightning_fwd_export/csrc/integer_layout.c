/* Images from channels first to channels last, and back. */
#include "lfwd_integer.h"

void lfwd_int_transpose(const int8_t *x, int32_t batch, int32_t rows, int32_t columns, int8_t *y)
{
    for (; batch > 0; batch--, x += rows * columns)
        for (int32_t j = 0; j < columns; j++) {
            const int8_t *from = x + j;
            for (int32_t i = 0; i < rows; i++, from += columns) *y++ = *from;
        }
}
