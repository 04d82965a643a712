/* Linear layers and convolutions of a step in integers: sums of the forward pass. */
#include "lfwd_integer_body.h"

/* A row's sum at the smallest exponent of all rows, with its bias (exponent 18). */
static int32_t row_sum(int32_t sum, int32_t row, const lfwd_int_weight *w, int32_t least, const int32_t *bias, int32_t x_exponent)
{
    sum = lfwd_shift(sum, w->exponents[row] - least);
    return bias ? lfwd_saturate64((int64_t)sum + lfwd_shift(bias[row], 18 - least - x_exponent)) : sum;
}

void lfwd_int_linear(const int8_t *x, const lfwd_int_weight *w, const int32_t *bias, const int8_t *x_exponent, int32_t batch, int32_t out,
                     int32_t in, int32_t *acc)
{
    const int32_t least = lfwd_smallest(w->exponents, out);
    for (int32_t b = 0; b < batch; b++, x += in)
        for (int32_t o = 0; o < out; o++) {
            int32_t sum = 0;
            if (w->masters)
                for (int32_t i = 0; i < in; i++) sum += (w->masters[o * in + i] >> 8) * x[i];
            else
                for (int32_t i = 0; i < in; i++) sum += w->frozen[o * in + i] * x[i];
            *acc++ = row_sum(sum, o, w, least, bias, *x_exponent);
        }
}

static void conv_plain(const int8_t *x, const lfwd_int_weight *w, const lfwd_int_conv_shape *s, int32_t *acc)
{
    const int32_t in_g = s->in_c / s->groups, out_g = s->out_c / s->groups, taps = s->k_h * s->k_w, plane = s->in_h * s->in_w;
    for (int32_t o = 0; o < s->out_c; o++)
        for (int32_t i = 0; i < s->out_h; i++)
            for (int32_t j = 0; j < s->out_w; j++) {
                int32_t sum = 0;
                for (int32_t c = 0; c < in_g; c++) {
                    const int8_t *from = x + (o / out_g * in_g + c) * plane;
                    for (int32_t k = 0; k < s->k_h; k++) {
                        const int32_t h = i * s->stride_h - s->pad_h + k * s->dil_h;
                        if (h < 0 || h >= s->in_h) continue;
                        for (int32_t l = 0; l < s->k_w; l++) {
                            const int32_t v = j * s->stride_w - s->pad_w + l * s->dil_w;
                            if (v >= 0 && v < s->in_w) sum += lfwd_int_view(w, (o * in_g + c) * taps + k * s->k_w + l) * from[h * s->in_w + v];
                        }
                    }
                }
                *acc++ = sum;
            }
}

static void conv_sums(const int8_t *x, const lfwd_int_weight *w, const lfwd_int_conv_shape *s, void *scratch, int32_t *acc)
{
#if LFWD_DSP
    if (s->groups == 1) {
        lfwd_int_conv_pairs(x, w, s, scratch, acc);
        return;
    }
#endif
    (void)scratch;
    conv_plain(x, w, s, acc);
}

void lfwd_int_conv(const int8_t *x, const lfwd_int_weight *w, const int32_t *bias, const int8_t *x_exponent, const lfwd_int_conv_shape *s,
                   void *scratch, int32_t *acc)
{
    const int32_t least = lfwd_smallest(w->exponents, s->out_c), pixels = s->out_h * s->out_w;
    for (int32_t b = 0; b < s->batch; b++, x += s->in_c * s->in_h * s->in_w) {
        conv_sums(x, w, s, scratch, acc);
        for (int32_t o = 0; o < s->out_c; o++) {
            const int32_t by = w->exponents[o] - least;
            const int32_t start = bias ? lfwd_shift(bias[o], 18 - least - *x_exponent) : 0;
            if (by == 0 && start == 0) acc += pixels;
            else
                for (int32_t i = 0; i < pixels; i++, acc++) *acc = lfwd_saturate64((int64_t)lfwd_shift(*acc, by) + start);
        }
    }
}

void lfwd_int_conv_onto(const int8_t *x, const lfwd_int_weight *w, const int8_t *x_exponent, const lfwd_int_conv_shape *s, void *scratch,
                        const int32_t *base, const int8_t *base_exponent, int32_t *acc)
{
    const int32_t least = lfwd_smallest(w->exponents, s->out_c), pixels = s->out_h * s->out_w, own = least + *x_exponent;
    const int32_t f = own < *base_exponent ? own : *base_exponent;
    for (int32_t b = 0; b < s->batch; b++, x += s->in_c * s->in_h * s->in_w) {
        conv_sums(x, w, s, scratch, acc);
        for (int32_t o = 0; o < s->out_c; o++) {
            const int32_t by = w->exponents[o] - least, mine = own - f, other = *base_exponent - f;
            if (by == 0 && mine == 0 && other == 0)
                for (int32_t i = 0; i < pixels; i++, acc++) *acc = lfwd_saturate64((int64_t)*acc + *base++);
            else
                for (int32_t i = 0; i < pixels; i++, acc++)
                    *acc = lfwd_saturate64((int64_t)lfwd_shift(lfwd_shift(*acc, by), mine) + lfwd_shift(*base++, other));
        }
    }
}
