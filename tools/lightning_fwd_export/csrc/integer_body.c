/* Inner loops of the integer kernels in plain C. */
#include "lfwd_integer_body.h"
#if !LFWD_DSP && !LFWD_MVE

void lfwd_int_products(const int16_t *c0, const int16_t *c1, const int16_t *x, int32_t m, int32_t n, int32_t fresh, int32_t *sums0,
                       int32_t *sums1)
{
    for (int32_t k = 0; k < n; k++, x += LFWD_INT_PLACES) {
        int32_t a = 0, b = 0;
        for (int32_t i = 0; i < m; i++) a += c0[i] * x[i], b += c1[i] * x[i];
        sums0[k] = fresh ? a : sums0[k] + a, sums1[k] = fresh ? b : sums1[k] + b;
    }
}

void lfwd_int_write_row(int16_t *masters, const int32_t *sums, int32_t n, int32_t s, const uint16_t *line, uint32_t row)
{
    lfwd_int_write_plain(masters, sums, n, s, line, row);
}

void lfwd_int_accelerate_row(int16_t *velocity, const int32_t *sums, int32_t n, int32_t s, int32_t momentum, const uint16_t *line, uint32_t row,
                             const uint16_t *line1, uint32_t row1)
{
    lfwd_int_accelerate_plain(velocity, sums, n, s, momentum, line, row, line1, row1);
}

void lfwd_int_outer_row(int16_t *masters, const int8_t *x, int32_t n, int32_t c, int32_t s, const uint16_t *line, uint32_t row)
{
    lfwd_int_outer_plain(masters, x, n, c, s, line, row);
}

void lfwd_int_widen(const int8_t *x, int32_t n, int16_t *out)
{
    for (; n > 0; n--) *out++ = *x++;
}

void lfwd_int_back_rows(const int16_t *e, const int16_t *masters, int32_t rows, int32_t columns, int32_t n, int32_t *acc)
{
    for (int32_t o = 0; o < rows; o++, masters += columns)
        for (int32_t i = 0; i < n; i++) acc[i] += e[o] * (masters[i] >> 8);
}

void lfwd_int_back_places(const int16_t *windows, int32_t size, const lfwd_int_weight *w, int32_t first, int32_t apart, int32_t outputs,
                          int32_t taps, int32_t *sums)
{
    const int16_t *e = windows;
    int32_t a = 0, b = 0, c = 0;
    for (int32_t o = 0; o < outputs; o++, first += apart, e += (taps + 1) & ~1)
        for (int32_t t = 0; t < taps; t++) {
            const int32_t v = lfwd_int_view(w, first + t), at = lfwd_int_window_at(0, t, outputs, taps);
            a += e[at] * v, b += e[at + size] * v, c += e[at + 2 * size] * v;
        }
    sums[0] = a, sums[1] = b, sums[2] = c;
}
#else
typedef int lfwd_integer_body_not_built; /* ISO C forbids an empty translation unit */
#endif
