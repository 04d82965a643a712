/* Updates of master weights in integers: error times activation, summed over the batch, rounded once per weight; the gradient is never stored. */
#include "lfwd_integer.h"
#include "lfwd_shift.h"

#define FRACTION 4 /* bits of a velocity below one step of its master */
#define INT16_TOP 32767
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

static int32_t shift_of_row(const lfwd_int_update *u, int32_t row, int32_t more)
{
    return *u->c_exponent + *u->x_exponent - (u->exponents[row] + 8) - more;
}

static void subtract(int16_t *master, int32_t change)
{
    *master = (int16_t)lfwd_saturate(*master - lfwd_saturate(change, 1 << 17), INT16_TOP); /* beyond 2^17 the sum saturates anyway */
}

/* momentum * U, rounded by a draw, plus the change */
static void accelerate(int16_t *velocity, int32_t momentum, uint32_t draw, int32_t change)
{
    const int32_t kept = lfwd_stochastic(*velocity * momentum, 15, draw);
    *velocity = (int16_t)lfwd_saturate(kept + lfwd_saturate(change, 1 << 17), INT16_TOP);
}

static int32_t outer_sum(const lfwd_int_update *u, int32_t batch, int32_t out, int32_t in, int32_t o, int32_t i)
{
    int32_t sum = 0;
    for (int32_t b = 0; b < batch; b++) sum += u->c[b * out + o] * u->x[b * in + i];
    return sum;
}

void lfwd_int_outer_update(int16_t *masters, const lfwd_int_update *u, int32_t batch, int32_t out, int32_t in, const int64_t *index,
                           int32_t columns, uint16_t *scratch)
{
    const uint32_t key = lfwd_draw_key(u->counter, u->stream);
    lfwd_draw_line(key, in, scratch);
    for (int32_t o = 0; o < out; o++, masters += columns) {
        const uint32_t row = lfwd_draw_row(key, o);
        const int32_t s = shift_of_row(u, o, 0);
        for (int32_t i = 0; i < in; i++)
            subtract(masters + (index ? index[i] : i), lfwd_stochastic(outer_sum(u, batch, out, in, o, i), s, (scratch[i] + row) & 0xFFFFu));
    }
}

void lfwd_int_outer_velocity(int16_t *velocity, const lfwd_int_update *u, const int32_t *rate, int32_t batch, int32_t out, int32_t in,
                             uint16_t *scratch)
{
    const uint32_t key = lfwd_draw_key(u->counter, u->stream), key1 = lfwd_draw_key(u->counter, u->stream + 1u);
    lfwd_draw_line(key, in, scratch);
    lfwd_draw_line(key1, in, scratch + in);
    for (int32_t o = 0; o < out; o++) {
        const uint32_t row = lfwd_draw_row(key, o), row1 = lfwd_draw_row(key1, o);
        const int32_t s = shift_of_row(u, o, FRACTION);
        for (int32_t i = 0; i < in; i++) {
            const int32_t change = lfwd_stochastic(outer_sum(u, batch, out, in, o, i), s, (scratch[i] + row) & 0xFFFFu);
            accelerate(velocity++, rate[2], (scratch[in + i] + row1) & 0xFFFFu, change);
        }
    }
}

/* The sum over batch and positions of c times the input that tap (k, l) of input channel c (of the group) saw. */
static int32_t conv_sum(const lfwd_int_update *u, const lfwd_int_conv_shape *s, int32_t o, int32_t c, int32_t k, int32_t l)
{
    const int32_t in_g = s->in_c / s->groups, channel = o / (s->out_c / s->groups) * in_g + c;
    const int32_t v0 = l * s->dil_w - s->pad_w;
    int32_t first = 0, last = s->out_w; /* columns whose tap lies in the image */
    while (first < last && first * s->stride_w + v0 < 0) first++;
    while (last > first && (last - 1) * s->stride_w + v0 >= s->in_w) last--;
    int32_t sum = 0;
    for (int32_t b = 0; b < s->batch; b++)
        for (int32_t i = 0; i < s->out_h; i++) {
            const int32_t h = i * s->stride_h - s->pad_h + k * s->dil_h;
            if (h < 0 || h >= s->in_h) continue;
            const int16_t *e = u->c + ((b * s->out_c + o) * s->out_h + i) * s->out_w;
            const int8_t *x = u->x + ((b * s->in_c + channel) * s->in_h + h) * s->in_w + v0;
            for (int32_t j = first; j < last; j++) sum += e[j] * x[j * s->stride_w];
        }
    return sum;
}

void lfwd_int_conv_update(int16_t *masters, const lfwd_int_update *u, const lfwd_int_conv_shape *s, const int64_t *index, int32_t columns,
                          uint16_t *scratch)
{
    const uint32_t key = lfwd_draw_key(u->counter, u->stream);
    const int32_t in_g = s->in_c / s->groups, taps = s->k_h * s->k_w;
    lfwd_draw_line(key, in_g * taps, scratch);
    for (int32_t o = 0; o < s->out_c; o++, masters += columns * taps) {
        const uint32_t row = lfwd_draw_row(key, o);
        const int32_t down = shift_of_row(u, o, 0);
        for (int32_t c = 0; c < in_g; c++)
            for (int32_t t = 0; t < taps; t++) {
                const uint32_t draw = (scratch[c * taps + t] + row) & 0xFFFFu;
                const int32_t sum = conv_sum(u, s, o, c, t / s->k_w, t % s->k_w);
                subtract(masters + (index ? index[c] : c) * taps + t, lfwd_stochastic(sum, down, draw));
            }
    }
}

void lfwd_int_conv_velocity(int16_t *velocity, const lfwd_int_update *u, const int32_t *rate, const lfwd_int_conv_shape *s,
                            uint16_t *scratch)
{
    const uint32_t key = lfwd_draw_key(u->counter, u->stream), key1 = lfwd_draw_key(u->counter, u->stream + 1u);
    const int32_t in_g = s->in_c / s->groups, taps = s->k_h * s->k_w, n = in_g * taps;
    lfwd_draw_line(key, n, scratch);
    lfwd_draw_line(key1, n, scratch + n);
    for (int32_t o = 0; o < s->out_c; o++) {
        const uint32_t row = lfwd_draw_row(key, o), row1 = lfwd_draw_row(key1, o);
        const int32_t down = shift_of_row(u, o, FRACTION);
        for (int32_t i = 0; i < n; i++) {
            const int32_t sum = conv_sum(u, s, o, i / taps, i % taps / s->k_w, i % s->k_w);
            accelerate(velocity++, rate[2], (scratch[n + i] + row1) & 0xFFFFu, lfwd_stochastic(sum, down, (scratch[i] + row) & 0xFFFFu));
        }
    }
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
                subtract(masters + (index ? index[i] : i) * taps + t, lfwd_stochastic(*velocity++, FRACTION, draw));
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
        velocity[o] = bias_sum(kept, bias_change(c, *c_exponent - 18 - FRACTION, key, batch, out, positions, o));
    }
}

void lfwd_int_apply_bias_velocity(int32_t *bias, const int32_t *velocity, const int64_t *counter, uint32_t stream, int32_t n)
{
    const uint32_t key = lfwd_draw_key(counter, stream + 2u);
    uint16_t draw;
    lfwd_draw_line(key, 1, &draw);
    for (int32_t o = 0; o < n; o++)
        bias[o] = lfwd_saturate(bias[o] - lfwd_stochastic(velocity[o], FRACTION, (draw + lfwd_draw_row(key, o)) & 0xFFFFu), BIAS_TOP);
}

void lfwd_int_saturated(const int16_t *masters, int32_t rows, int32_t columns, const int64_t *counter, int8_t *flags)
{
    const int32_t look = (*counter & 15) == 15;
    for (int32_t o = 0; o < rows; o++) {
        flags[o] = 0;
        for (int32_t i = 0; look && i < columns; i++)
            if (masters[o * columns + i] == INT16_TOP || masters[o * columns + i] == -INT16_TOP - 1) flags[o] = 1;
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
