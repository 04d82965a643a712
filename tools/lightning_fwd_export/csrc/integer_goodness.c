/* Forward-Forward in integers: goodness, the norm over a sample, the label in the input. */
#include "lfwd_integer_softmax.h"

static int32_t squares(const int8_t *h, int32_t n)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++) sum += h[i] * h[i];
    return sum;
}

static int32_t sigmoid(int64_t distance, int32_t exponent, const lfwd_int_contrast *s)
{
    const uint32_t u = lfwd_int_exponential((uint32_t)(distance < 0 ? -distance : distance), exponent, s->mult, s->below);
    const uint32_t total = u + 32768, low = ((u << 15) + total / 2) / total;
    return (int32_t)(distance < 0 ? low : 32768 - low);
}

void lfwd_int_contrast_error(const int8_t *h, const int8_t *exponent, const lfwd_int_contrast *s, int32_t pairs, int32_t n, int32_t *e)
{
    const int32_t fine = 2 * *exponent, theta = s->symmetric ? 0 : lfwd_shift(s->threshold, 15 + s->threshold_below - fine);
    for (int32_t b = 0; b < pairs; b++) {
        const int8_t *positive = h + b * n, *negative = h + (pairs + b) * n;
        const int64_t good = squares(positive, n), bad = squares(negative, n);
        const int32_t up = sigmoid(s->symmetric ? bad - good : theta - good, fine, s);
        const int32_t down = s->symmetric ? up : sigmoid(bad - theta, fine, s);
        for (int32_t i = 0; i < n; i++) {
            e[b * n + i] = -up * positive[i];
            e[(pairs + b) * n + i] = down * negative[i];
        }
    }
}

static uint32_t root(uint32_t x) /* the largest whose square is at most x */
{
    uint32_t r = 0;
    for (uint32_t bit = 1u << 15; bit; bit >>= 1)
        if ((r + bit) * (r + bit) <= x) r += bit;
    return r;
}

void lfwd_int_sample_norm(const int8_t *h, int32_t batch, int32_t n, int32_t *y)
{
    for (int32_t b = 0; b < batch; b++, h += n, y += n) {
        const uint32_t sum = (uint32_t)squares(h, n);
        const int32_t up = (32 - lfwd_bit_length(sum)) / 2;
        const int32_t reciprocal = sum ? (int32_t)((1u << 31) / root(sum << (2 * up))) : 0;
        for (int32_t i = 0; i < n; i++) y[i] = lfwd_shift(h[i] * reciprocal, 11 - up);
    }
}

void lfwd_int_wrong_labels(const int64_t *target, const int64_t *counter, uint32_t steps, uint32_t seed, int32_t batch, uint32_t classes,
                           int64_t *out)
{
    const uint32_t key = lfwd_hash32((uint32_t)*counter * steps + seed);
    for (int32_t b = 0; b < batch; b++)
        out[b] = (int64_t)(((uint32_t)target[b] + 1u + lfwd_hash32((uint32_t)b + key) % (classes - 1u)) % classes);
}

void lfwd_int_label_overlay(const int8_t *x, const int8_t *exponent, const int64_t *labels, int32_t batch, int32_t copies, int32_t n,
                            int32_t classes, int32_t mult, int32_t below, int8_t *y)
{
    const int32_t wide = lfwd_shift(mult, 15 + below - *exponent);
    const int8_t one = (int8_t)(wide > 127 ? 127 : wide);
    for (int32_t k = 0; k < copies; k++)
        for (int32_t b = 0; b < batch; b++, y += n) {
            for (int32_t i = 0; i < classes; i++) y[i] = (int8_t)(!labels || labels[k * batch + b] == i ? one : 0);
            for (int32_t i = classes; i < n; i++) y[i] = x[b * n + i];
        }
}

void lfwd_int_label_rows(const int8_t *matrix, const int8_t *exponents, const int64_t *labels, int32_t rows, int32_t classes, int32_t n,
                         int32_t *out)
{
    const int32_t least = lfwd_smallest(exponents, classes);
    for (int32_t b = 0; b < rows; b++)
        for (int32_t i = 0; i < n; i++, out++) {
            *out = 0;
            for (int32_t c = labels ? (int32_t)labels[b] : 0; c < (labels ? (int32_t)labels[b] + 1 : classes); c++)
                *out += lfwd_shift(matrix[c * n + i], exponents[c] - least);
        }
}

void lfwd_int_add_sums(const int32_t *a, const int8_t *a_exponent, const int32_t *b, const int8_t *b_exponent, int32_t n, int32_t *out)
{
    const int32_t f = *a_exponent < *b_exponent ? *a_exponent : *b_exponent;
    for (int32_t i = 0; i < n; i++) out[i] = lfwd_saturate64((int64_t)lfwd_shift(a[i], *a_exponent - f) + lfwd_shift(b[i], *b_exponent - f));
}
