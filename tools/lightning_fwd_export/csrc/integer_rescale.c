/* Between sums and values of a step in integers: exponents, requantisation, masks, pooling, addition, softmax. */
#include "lfwd_integer_softmax.h"

void lfwd_int_exponent(const int8_t *a, int32_t na, const int8_t *b, int32_t nb, int32_t sign, int32_t constant, int8_t *out)
{
    *out = lfwd_to_exponent(lfwd_smallest(a, na) + (b ? sign * lfwd_smallest(b, nb) : 0) + constant);
}

void lfwd_int_larger(const int8_t *a, const int8_t *b, int8_t *out)
{
    const int32_t larger = *a > *b ? *a : *b, most = (*a > *b ? *b : *a) + 15;
    *out = (int8_t)(larger < most ? larger : most);
}

void lfwd_int_smaller(const int8_t *a, const int8_t *b, int8_t *out)
{
    *out = *a < *b ? *a : *b;
}

void lfwd_int_requantise(const int32_t *acc, int32_t n, const int8_t *exponent, const int8_t *out_exponent, int32_t mult, int32_t relu,
                         int8_t *y)
{
    const int32_t s = *exponent - *out_exponent, low = relu ? 0 : -127;
    for (int32_t i = 0; i < n; i++) {
        const int32_t v = lfwd_shift(lfwd_multiply(acc[i], mult), s);
        y[i] = (int8_t)(v > 127 ? 127 : v < low ? low : v);
    }
}

static uint32_t magnitude(int32_t x)
{
    return x < 0 ? 0u - (uint32_t)x : (uint32_t)x;
}

void lfwd_int_needed_exponent(const int32_t *acc, int32_t n, const int8_t *exponent, int32_t mult, int32_t relu, int8_t *out)
{
    uint32_t most = 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t v = lfwd_multiply(relu && acc[i] < 0 ? 0 : acc[i], mult);
        most = magnitude(v) > most ? magnitude(v) : most;
    }
    *out = lfwd_to_exponent(*exponent - (lfwd_bit_length(most) - 7));
}

void lfwd_int_coarsen(int8_t *exponent, const int8_t *needed)
{
    *exponent = *needed < *exponent ? *needed : *exponent;
}

void lfwd_int_narrow_shift(const int32_t *acc, const int8_t *mask, int32_t n, int32_t bits, int8_t *out)
{
    uint32_t most = 0;
    for (int32_t i = 0; i < n; i++)
        if (!mask || mask[i] > 0) most = magnitude(acc[i]) > most ? magnitude(acc[i]) : most;
    const int32_t s = lfwd_bit_length(most) - (bits - 1);
    *out = (int8_t)(s > 0 ? s : 0);
}

void lfwd_int_narrow(const int32_t *acc, const int8_t *mask, int32_t n, const int8_t *shift, int32_t bits, int16_t *e)
{
    const int32_t s = *shift, top = (1 << (bits - 1)) - 1;
    for (int32_t i = 0; i < n; i++) e[i] = (int16_t)(!mask || mask[i] > 0 ? lfwd_saturate(lfwd_shift(acc[i], s), top) : 0);
}

void lfwd_int_error_sum(const int16_t *e, int32_t n, int32_t *sums)
{
    for (int32_t i = 0; i < n; i++) sums[i] = e[i] * 4096;
}

void lfwd_int_mask(const int16_t *e, const int8_t *mask, int32_t n, int16_t *out)
{
    for (int32_t i = 0; i < n; i++) out[i] = mask[i] > 0 ? e[i] : 0;
}

void lfwd_int_pool_sum(const int8_t *x, const lfwd_int_pool_shape *s, int32_t *out)
{
    for (int32_t p = 0; p < s->planes; p++, x += s->in_h * s->in_w)
        for (int32_t i = 0; i < s->out_h; i++)
            for (int32_t j = 0; j < s->out_w; j++) {
                int32_t sum = 0;
                for (int32_t k = 0; k < s->k_h; k++) {
                    const int32_t h = i * s->stride_h - s->pad_h + k;
                    if (h < 0 || h >= s->in_h) continue;
                    for (int32_t l = 0; l < s->k_w; l++) {
                        const int32_t w = j * s->stride_w - s->pad_w + l;
                        if (w >= 0 && w < s->in_w) sum += x[h * s->in_w + w];
                    }
                }
                *out++ = sum;
            }
}

void lfwd_int_add(const int8_t *a, const int8_t *a_exponent, const int8_t *b, const int8_t *b_exponent, int32_t n, int32_t *out)
{
    int8_t f;
    lfwd_int_larger(a_exponent, b_exponent, &f);
    const int32_t left_a = f - *a_exponent, left_b = f - *b_exponent; /* at most 15; of one far finer than the other to the right */
    if (left_a >= 0 && left_b >= 0) {
        for (int32_t i = 0; i < n; i++) out[i] = a[i] * (1 << left_a) + b[i] * (1 << left_b);
        return;
    }
    for (int32_t i = 0; i < n; i++) out[i] = lfwd_shift(a[i], -left_a) + lfwd_shift(b[i], -left_b);
}

void lfwd_int_softmax_error(const int32_t *logits, const int8_t *exponent, const int64_t *target, int32_t batch, int32_t classes, int16_t *e)
{
    for (int32_t b = 0; b < batch; b++, logits += classes, e += classes) {
        int32_t top = logits[0];
        uint32_t total = 0;
        for (int32_t i = 1; i < classes; i++) top = logits[i] > top ? logits[i] : top;
        for (int32_t i = 0; i < classes; i++) total += lfwd_int_exponential((uint32_t)top - (uint32_t)logits[i], *exponent, 23637, -6);
        for (int32_t i = 0; i < classes; i++) {
            const uint32_t u = lfwd_int_exponential((uint32_t)top - (uint32_t)logits[i], *exponent, 23637, -6);
            const int32_t p = (int32_t)(((u << 15) + total / 2) / total) - (i == target[b] ? 32768 : 0);
            e[i] = (int16_t)(p > 32767 ? 32767 : p < -32767 ? -32767 : p);
        }
    }
}
