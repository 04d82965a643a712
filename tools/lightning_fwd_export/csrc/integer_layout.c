/* Images of a frozen body: from channels first to channels last and back, their sum, their averages. */
#include "lfwd_integer.h"
#include "lfwd_requantize.h"

void lfwd_int_transpose(const int8_t *x, int32_t batch, int32_t rows, int32_t columns, int8_t *y)
{
    for (; batch > 0; batch--, x += rows * columns)
        for (int32_t j = 0; j < columns; j++) {
            const int8_t *from = x + j;
            for (int32_t i = 0; i < rows; i++, from += columns) *y++ = *from;
        }
}

void lfwd_int_body_add(const int8_t *a, const int8_t *b, const lfwd_int_sum *s, int32_t n, int8_t *y)
{
    const int32_t of_a = s->of_a, of_b = s->of_b, offset = s->offset, right = s->right, zero = s->zero, low = s->low;
    for (const int8_t *const end = a + n; a != end; a++, b++) {
        const int32_t v = ((*a * of_a + *b * of_b + offset) >> right) + zero;
        *y++ = (int8_t)(v < low ? low : v > 127 ? 127 : v);
    }
}

void lfwd_int_body_sums(const int8_t *x, int32_t batch, int32_t pixels, int32_t channels, int32_t zero, int32_t *sums)
{
    for (; batch > 0; batch--, sums += channels) {
        for (int32_t c = 0; c < channels; c++) sums[c] = -zero * pixels;
        for (int32_t p = 0; p < pixels; p++)
            for (int32_t c = 0; c < channels; c++) sums[c] += *x++;
    }
}

void lfwd_int_body_features(const int32_t *sums, const int32_t *start, const int32_t *multiplier, const int32_t *shift, int32_t batch,
                            int32_t width, int8_t *y)
{
    for (; batch > 0; batch--)
        for (int32_t f = 0; f < width; f++) *y++ = lfwd_requantize_s8(*sums++ + start[f], multiplier[f], shift[f], 0, -127, 127);
}
