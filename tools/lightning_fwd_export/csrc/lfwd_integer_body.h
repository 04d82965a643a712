/* The inner loops of the integer kernels (internal): once as plain C, once with DSP, once on Helium, the same bits. */
#ifndef LFWD_INTEGER_BODY_H
#define LFWD_INTEGER_BODY_H
#include "lfwd_int8.h"
#include "lfwd_integer.h"
#include "lfwd_shift.h"

#define LFWD_INT16_TOP 32767
#define LFWD_FRACTION 4 /* bits of a velocity below one step of its master */

/* A column of an unfolded input: what one weight per output met at up to so many places. */
enum { LFWD_INT_COLUMNS = 12, LFWD_INT_PLACES = 64 };

/* sums0[k] += the product of c0 with column k of x, sums1 of c1, or = where they are fresh; n columns, a multiple of 3, of
 * m <= LFWD_INT_PLACES places. */
void lfwd_int_products(const int16_t *c0, const int16_t *c1, const int16_t *x, int32_t m, int32_t n, int32_t fresh, int32_t *sums0,
                       int32_t *sums1);

/* Sums of one sample's convolution, not grouped (DSP alone). scratch: LFWD_INT_CONV_SCRATCH bytes. */
void lfwd_int_conv_pairs(const int8_t *x, const lfwd_int_weight *w, const lfwd_int_conv_shape *s, void *scratch, int32_t *acc);

/* n masters of a row minus their sums, shifted to the right by s and rounded by the draws of line and row. */
void lfwd_int_write_row(int16_t *masters, const int32_t *sums, int32_t n, int32_t s, const uint16_t *line, uint32_t row);

/* n velocities of a row: momentum (Q15) times the old one, rounded by the draws of line1 and row1, plus the change. */
void lfwd_int_accelerate_row(int16_t *velocity, const int32_t *sums, int32_t n, int32_t s, int32_t momentum, const uint16_t *line, uint32_t row,
                             const uint16_t *line1, uint32_t row1);

/* The first for sums that are one product each, c x. */
void lfwd_int_outer_row(int16_t *masters, const int8_t *x, int32_t n, int32_t c, int32_t s, const uint16_t *line, uint32_t row);

/* n bytes as halfwords. */
void lfwd_int_widen(const int8_t *x, int32_t n, int16_t *out);

/* acc[i] += sum over rows of e times the view of masters (rows apart by columns); n columns. */
void lfwd_int_back_rows(const int16_t *e, const int16_t *masters, int32_t rows, int32_t columns, int32_t n, int32_t *acc);

/* The errors that met the weights of one input: of `outputs` outputs and `taps` taps, in an order that suits the body, for so many places
 * side by side. */
#if LFWD_MVE
enum { LFWD_INT_BACK_PLACES = 4 };
static inline int32_t lfwd_int_window_at(int32_t o, int32_t t, int32_t outputs, int32_t taps)
{
    return (void)taps, t * outputs + o;
}
#else
enum { LFWD_INT_BACK_PLACES = 3 };
static inline int32_t lfwd_int_window_at(int32_t o, int32_t t, int32_t outputs, int32_t taps) /* pairs; an odd last tap is the second of one */
{
    return (void)outputs, o * ((taps + 1) & ~1) + (t == taps - 1 ? (taps - 1) | 1 : t);
}
#endif

/* Sums of the errors of each place times the weights from `first` on, whose outputs lie `apart`; windows lie `size` apart. */
void lfwd_int_back_places(const int16_t *windows, int32_t size, const lfwd_int_weight *w, int32_t first, int32_t apart, int32_t outputs,
                          int32_t taps, int32_t *sums);

static inline int32_t lfwd_int_view(const lfwd_int_weight *w, int32_t k)
{
    return w->masters ? w->masters[k] >> 8 : w->frozen[k];
}

/* Words of zeros. Not by memset, which small C libraries write byte by byte: the compiler is not to know the value. */
static inline void lfwd_int_clear(void *to, int32_t words)
{
    int32_t *out = to, zero = 0;
#ifdef __GNUC__
    __asm__("" : "+r"(zero));
#endif
    for (; words > 0; words--) *out++ = zero;
}

static inline void lfwd_int_subtract(int16_t *master, int32_t change)
{
    *master = (int16_t)lfwd_saturate(*master - lfwd_saturate(change, LFWD_INT16_TOP), LFWD_INT16_TOP);
}

static inline void lfwd_int_write_plain(int16_t *masters, const int32_t *sums, int32_t n, int32_t s, const uint16_t *line, uint32_t row)
{
    for (int32_t k = 0; k < n; k++) lfwd_int_subtract(masters + k, lfwd_stochastic(sums[k], s, (line[k] + row) & 0xFFFFu));
}

static inline void lfwd_int_accelerate_plain(int16_t *velocity, const int32_t *sums, int32_t n, int32_t s, int32_t momentum, const uint16_t *line,
                                             uint32_t row, const uint16_t *line1, uint32_t row1)
{
    for (int32_t k = 0; k < n; k++) {
        const int32_t kept = lfwd_stochastic(velocity[k] * momentum, 15, (line1[k] + row1) & 0xFFFFu);
        const int32_t change = lfwd_stochastic(sums[k], s, (line[k] + row) & 0xFFFFu);
        velocity[k] = (int16_t)lfwd_saturate(kept + lfwd_saturate(change, LFWD_INT16_TOP), LFWD_INT16_TOP);
    }
}

static inline void lfwd_int_outer_plain(int16_t *masters, const int8_t *x, int32_t n, int32_t c, int32_t s, const uint16_t *line, uint32_t row)
{
    for (int32_t k = 0; k < n; k++) lfwd_int_subtract(masters + k, lfwd_stochastic(c * x[k], s, (line[k] + row) & 0xFFFFu));
}
#endif
