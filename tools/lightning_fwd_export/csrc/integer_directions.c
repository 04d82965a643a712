/* Zeroth order in integers: weights displaced along a random direction, the slope along it, the change that follows. */
#include "lfwd_integer_body.h"

enum { BIAS_EXPONENT = 18, BIAS_TOP = (1 << 23) - 1, MOST = 6 };

static int32_t held(int32_t x, int32_t most)
{
    return x < 0 ? 0 : x > most ? most : x;
}

static int32_t displacement(const int8_t *exponents, int32_t rows, int32_t wanted) /* exponent of what the rows are displaced by */
{
    const int32_t coarsest = lfwd_smallest(exponents, rows);
    return coarsest < wanted ? coarsest : wanted;
}

static int32_t bias_step(const int8_t *exponents, int32_t rows, const lfwd_int_direction *d)
{
    return held(BIAS_EXPONENT - (exponents ? displacement(exponents, rows, d->wanted) : d->wanted), 22);
}

static uint32_t window(const lfwd_int_direction *d) /* where the cycle of the generator is read from */
{
    return lfwd_hash32((uint32_t)*d->counter * d->times + d->plus);
}

static int32_t sign_at(uint32_t start, int32_t i)
{
    return lfwd_hash32(start + (uint32_t)i) & 1u ? -1 : 1;
}

void lfwd_int_moved(const int16_t *masters, const int8_t *exponents, const lfwd_int_direction *d, int32_t rows, int32_t columns, int8_t *view)
{
    const uint32_t start = window(d);
    const int32_t p = displacement(exponents, rows, d->wanted);
    for (int32_t o = 0; o < rows; o++) {
        const int32_t step = 1 << held(exponents[o] - p, MOST);
        for (int32_t i = o * columns; i < (o + 1) * columns; i++)
            view[i] = (int8_t)lfwd_saturate((masters[i] >> 8) + sign_at(start, i) * step, 127);
    }
}

void lfwd_int_moved_bias(const int32_t *bias, const int8_t *exponents, int32_t rows, const lfwd_int_direction *d, int32_t n, int32_t *out)
{
    const uint32_t start = window(d);
    const int32_t step = 1 << bias_step(exponents, rows, d);
    for (int32_t i = 0; i < n; i++) out[i] = lfwd_saturate(bias[i] + sign_at(start, i) * step, BIAS_TOP);
}

static int64_t total(const int16_t *e, const int32_t *after, const int32_t *before, int32_t n)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (int64_t)e[i] * lfwd_saturate64((int64_t)after[i] - before[i]);
    return sum;
}

void lfwd_int_slope_shift(const int16_t *e, const int32_t *after, const int32_t *before, int32_t n, int8_t *out)
{
    const int64_t sum = total(e, after, before, n);
    const uint64_t size = (uint64_t)(sum < 0 ? -sum : sum);
    const uint32_t high = (uint32_t)(size >> 32);
    const int32_t bits = high ? 32 + lfwd_bit_length(high) : lfwd_bit_length((uint32_t)size);
    *out = (int8_t)(bits > 15 ? bits - 15 : 0);
}

void lfwd_int_slope(const int16_t *e, const int32_t *after, const int32_t *before, int32_t n, const int8_t *shift, int16_t *out)
{
    const int64_t sum = total(e, after, before, n);
    *out = (int16_t)lfwd_saturate((int32_t)((sum + (((int64_t)1 << *shift) >> 1)) >> *shift), LFWD_INT16_TOP);
}

void lfwd_int_direction_update(int16_t *masters, const int8_t *exponents, const int16_t *c, const int8_t *c_exponent, uint32_t stream,
                               const lfwd_int_direction *d, int32_t rows, int32_t columns, uint16_t *scratch)
{
    const uint32_t start = window(d), key = lfwd_draw_key(d->counter, stream);
    const int32_t p = displacement(exponents, rows, d->wanted);
    lfwd_draw_line(key, columns, scratch);
    for (int32_t o = 0; o < rows; o++) {
        const uint32_t row = lfwd_draw_row(key, o);
        const int32_t s = *c_exponent - 2 * exponents[o] + held(exponents[o] - p, MOST) - 8;
        for (int32_t i = 0; i < columns; i++) {
            const int32_t k = o * columns + i;
            lfwd_int_subtract(masters + k, lfwd_stochastic(*c * sign_at(start, k), s, (scratch[i] + row) & 0xFFFFu));
        }
    }
}

void lfwd_int_direction_bias_update(int32_t *bias, const int8_t *exponents, int32_t rows, const int16_t *c, const int8_t *c_exponent,
                                    uint32_t stream, const lfwd_int_direction *d, int32_t n)
{
    const uint32_t start = window(d), key = lfwd_draw_key(d->counter, stream);
    const int32_t s = *c_exponent + bias_step(exponents, rows, d) - 2 * BIAS_EXPONENT;
    uint16_t draw;
    lfwd_draw_line(key, 1, &draw);
    for (int32_t o = 0; o < n; o++) {
        const int32_t change = lfwd_stochastic(*c * sign_at(start, o), s, (draw + lfwd_draw_row(key, o)) & 0xFFFFu);
        bias[o] = lfwd_saturate(bias[o] - lfwd_saturate(change, 1 << 29), BIAS_TOP);
    }
}
