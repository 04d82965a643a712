/* Int8 fully connected layer, weight (out_features, in_features), one multiplier for the tensor. The fast bodies run four rows of
 * the weight at once over one reading of the input. */
#include "lfwd_dsp.h"
#include "lfwd_requantize.h"

static void row_plain(const lfwd_linear_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                      int8_t *output)
{
    for (int32_t o = 0; o < p->out_features; o++) {
        const int8_t *w = weight + o * p->in_features;
        int32_t sum = start[o];
        for (int32_t k = 0; k < p->in_features; k++) sum += (w[k] + p->filter_offset) * input[k];
        output[o] = lfwd_requantize_s8(sum, p->multiplier, p->shift, p->output_offset, p->act_min, p->act_max);
    }
}

#if LFWD_MVE
/* All outputs of one input; the last group stores those that there are. */
static void row_fast(const lfwd_linear_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                     int8_t *output)
{
    const int32_t n = p->in_features;
    const int32x4_t low = vdupq_n_s32(p->act_min), high = vdupq_n_s32(p->act_max);
    const int32x4_t multiplier = vdupq_n_s32(p->multiplier), shift = vdupq_n_s32(p->shift);
    for (int32_t left = p->out_features; left > 0; left -= 4, start += 4, output += 4) {
        const int8_t *w1 = left > 1 ? weight + n : weight, *w2 = left > 2 ? w1 + n : w1, *w3 = left > 3 ? w2 + n : w2;
        const mve_pred16_t valid = vctp32q((uint32_t)left);
        const int32x4_t sums = vaddq_s32(lfwd_dot4(weight, w1, w2, w3, input, n), vldrwq_z_s32(start, valid));
        const int32x4_t q = vaddq_n_s32(lfwd_requantize_x4(sums, multiplier, shift), p->output_offset);
        vstrbq_p_s32(output, vminq_s32(vmaxq_s32(q, low), high), valid);
        weight = w3 + n;
    }
}
#elif LFWD_DSP
static inline int32_t two_products(int32_t sum, const int8_t *w, uint32_t x_even, uint32_t x_odd)
{
    const uint32_t word = lfwd_load4(w);
    return lfwd_smlad(lfwd_odd(word), x_odd, lfwd_smlad(lfwd_even(word), x_even, sum));
}

static void row_fast(const lfwd_linear_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                     int8_t *output)
{
    const int32_t n = p->in_features, fours = n & ~3;
    int32_t o = 0;
    for (; o + 4 <= p->out_features; o += 4, weight += 4 * n) {
        const int8_t *w0 = weight, *w1 = w0 + n, *w2 = w1 + n, *w3 = w2 + n, *x = input;
        int32_t s0 = start[o], s1 = start[o + 1], s2 = start[o + 2], s3 = start[o + 3];
        for (const int8_t *const end = input + fours; x != end; x += 4, w0 += 4, w1 += 4, w2 += 4, w3 += 4) {
            const uint32_t word = lfwd_load4(x), even = lfwd_even(word), odd = lfwd_odd(word);
            s0 = two_products(s0, w0, even, odd);
            s1 = two_products(s1, w1, even, odd);
            s2 = two_products(s2, w2, even, odd);
            s3 = two_products(s3, w3, even, odd);
        }
        for (const int8_t *const end = input + n; x != end; x++) {
            s0 += *w0++ * *x;
            s1 += *w1++ * *x;
            s2 += *w2++ * *x;
            s3 += *w3++ * *x;
        }
        output[o] = lfwd_requantize_narrow(s0, p->multiplier, p->shift, p->output_offset);
        output[o + 1] = lfwd_requantize_narrow(s1, p->multiplier, p->shift, p->output_offset);
        output[o + 2] = lfwd_requantize_narrow(s2, p->multiplier, p->shift, p->output_offset);
        output[o + 3] = lfwd_requantize_narrow(s3, p->multiplier, p->shift, p->output_offset);
    }
    lfwd_bound(output, o, p->act_min, p->act_max);
    for (; o < p->out_features; o++, weight += n) {
        const int8_t *w = weight, *x = input;
        int32_t sum = start[o];
        for (; x != input + fours; x += 4, w += 4) {
            const uint32_t word = lfwd_load4(x);
            sum = two_products(sum, w, lfwd_even(word), lfwd_odd(word));
        }
        for (; x != input + n; x++) sum += *w++ * *x;
        output[o] = lfwd_requantize_s8(sum, p->multiplier, p->shift, p->output_offset, p->act_min, p->act_max);
    }
}
#endif

void lfwd_linear_s8(const lfwd_linear_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                    int8_t *output)
{
    for (int32_t row = 0; row < p->rows; row++, input += p->in_features, output += p->out_features) {
#if LFWD_MVE || LFWD_DSP
        if (p->narrow && p->filter_offset == 0) {
            row_fast(p, input, weight, start, output);
            continue;
        }
#endif
        row_plain(p, input, weight, start, output);
    }
}
