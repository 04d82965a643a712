/* Around the updates of master weights (integer_columns.c): the rate, velocities, biases, the ratchet, the counter. */
#include "lfwd_integer_body.h"

#define BIAS_TOP ((1 << 23) - 1)

void lfwd_int_apply_rate(const int16_t *e, int32_t n, const int32_t *rate, int32_t mult, int32_t bits, int16_t *c)
{
    const int32_t both = lfwd_multiply(rate[0], mult), top = (1 << (bits - 1)) - 1;
    for (int32_t i = 0; i < n; i++) c[i] = (int16_t)lfwd_saturate(lfwd_shift(e[i] * both, 31 - bits), top);
}

void lfwd_int_rate_exponent(const int32_t *rate, const int8_t *e_exponent, int32_t ne, int32_t constant, int8_t *out)
{
    *out = lfwd_to_exponent((e_exponent ? lfwd_smallest(e_exponent, ne) : 0) + rate[1] + constant);
}

void lfwd_int_apply_velocity(int16_t *masters, const int16_t *velocity, const int64_t *counter, uint32_t stream, int32_t rows, int32_t in,
                             int32_t taps, const int64_t *index, int32_t columns, uint16_t *scratch)
{
    const uint32_t key = lfwd_draw_key(counter, stream + 2u);
    lfwd_draw_line(key, in * taps, scratch);
    for (int32_t o = 0; o < rows; o++, masters += columns * taps) {
        const uint32_t row = lfwd_draw_row(key, o);
        for (int32_t i = 0; i < in; i++)
            for (int32_t t = 0; t < taps; t++) {
                const uint32_t draw = (scratch[i * taps + t] + row) & 0xFFFFu;
                lfwd_int_subtract(masters + (index ? index[i] : i) * taps + t, lfwd_stochastic(*velocity++, LFWD_FRACTION, draw));
            }
    }
}

static int32_t bias_change(const int16_t *c, int32_t s, uint32_t key, int32_t batch, int32_t out, int32_t positions, int32_t o)
{
    uint16_t draw;
    int32_t sum = 0;
    for (int32_t b = 0; b < batch; b++)
        for (int32_t i = 0; i < positions; i++) sum += c[(b * out + o) * positions + i];
    lfwd_draw_line(key, 1, &draw);
    return lfwd_stochastic(sum, s, (draw + lfwd_draw_row(key, o)) & 0xFFFFu);
}

/* a and b such that their sum may overflow: held to the range of a bias */
static int32_t bias_sum(int32_t a, int32_t b)
{
    return lfwd_saturate(a + lfwd_saturate(b, 1 << 29), BIAS_TOP);
}

void lfwd_int_bias_update(int32_t *bias, const int16_t *c, const int8_t *c_exponent, const int64_t *counter, uint32_t stream, int32_t batch,
                          int32_t out, int32_t positions)
{
    const uint32_t key = lfwd_draw_key(counter, stream);
    for (int32_t o = 0; o < out; o++) bias[o] = bias_sum(bias[o], -lfwd_saturate(bias_change(c, *c_exponent - 18, key, batch, out, positions, o), 1 << 29));
}

void lfwd_int_bias_velocity(int32_t *velocity, const int16_t *c, const int8_t *c_exponent, const int64_t *counter, uint32_t stream,
                            const int32_t *rate, int32_t batch, int32_t out, int32_t positions)
{
    const uint32_t key = lfwd_draw_key(counter, stream);
    for (int32_t o = 0; o < out; o++) {
        const int32_t kept = (int32_t)(((int64_t)velocity[o] * rate[2] + 16384) >> 15);
        velocity[o] = bias_sum(kept, bias_change(c, *c_exponent - 18 - LFWD_FRACTION, key, batch, out, positions, o));
    }
}

void lfwd_int_apply_bias_velocity(int32_t *bias, const int32_t *velocity, const int64_t *counter, uint32_t stream, int32_t n)
{
    const uint32_t key = lfwd_draw_key(counter, stream + 2u);
    uint16_t draw;
    lfwd_draw_line(key, 1, &draw);
    for (int32_t o = 0; o < n; o++)
        bias[o] = lfwd_saturate(bias[o] - lfwd_stochastic(velocity[o], LFWD_FRACTION, (draw + lfwd_draw_row(key, o)) & 0xFFFFu), BIAS_TOP);
}

void lfwd_int_saturated(const int16_t *masters, int32_t rows, int32_t columns, const int64_t *counter, int8_t *flags)
{
    const int32_t look = (*counter & 15) == 15;
    for (int32_t o = 0; o < rows; o++) {
        flags[o] = 0;
        for (int32_t i = 0; look && i < columns; i++)
            if (masters[o * columns + i] == LFWD_INT16_TOP || masters[o * columns + i] == -LFWD_INT16_TOP - 1) flags[o] = 1;
    }
}

void lfwd_int_ratchet(int16_t *values, const int8_t *flags, int32_t rows, int32_t columns, int32_t offset)
{
    for (int32_t o = 0; o < rows; o++)
        for (int32_t i = 0; flags[o] && i < columns; i++) {
            int16_t *v = values + o * columns + i;
            *v = (int16_t)(lfwd_shift(*v - offset, 1) + offset);
        }
}

void lfwd_int_ratchet_exponents(int8_t *exponents, const int8_t *flags, int32_t rows)
{
    for (int32_t o = 0; o < rows; o++) exponents[o] = (int8_t)(exponents[o] - flags[o]);
}

void lfwd_int_next(int64_t *counter)
{
    *counter = (*counter + 1) & 0x7FFFFFFF;
}
