/* Int8 fully connected layer, weight (out_features, in_features), one multiplier for the tensor. */
#include "lfwd_dsp.h"
#include "lfwd_requantize.h"

static int32_t dot(const int8_t *w, const int8_t *x, int32_t count, int32_t filter_offset, int32_t input_offset)
{
    int32_t sum = 0, k = 0;
#if LFWD_MVE
    /* sum((w + f)(x + i)) = sum(w x) + i sum(w) + f sum(x) + n f i */
    int32_t weights = 0, inputs = 0;
    for (; k < count; k += 16) {
        const mve_pred16_t valid = vctp8q((uint32_t)(count - k));
        const int8x16_t wv = vldrbq_z_s8(w + k, valid), xv = vldrbq_z_s8(x + k, valid);
        sum = vmladavaq_s8(sum, wv, xv);
        weights = vaddvaq_s8(weights, wv);
        inputs = vaddvaq_s8(inputs, xv);
    }
    return sum + input_offset * weights + filter_offset * inputs + count * filter_offset * input_offset;
#elif LFWD_DSP
    const uint32_t w_offset = lfwd_offset_pair(filter_offset), x_offset = lfwd_offset_pair(input_offset);
    for (; k + 4 <= count; k += 4) {
        const uint32_t wv = lfwd_load4(w + k), xv = lfwd_load4(x + k);
        sum = lfwd_smlad(lfwd_even_plus(w_offset, wv), lfwd_even_plus(x_offset, xv), sum);
        sum = lfwd_smlad(lfwd_odd_plus(w_offset, wv), lfwd_odd_plus(x_offset, xv), sum);
    }
#endif
    for (; k < count; k++) sum += (w[k] + filter_offset) * (x[k] + input_offset);
    return sum;
}

void lfwd_linear_s8(const lfwd_linear_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *bias,
                    int8_t *output)
{
    for (int32_t row = 0; row < p->rows; row++, input += p->in_features) {
        const int8_t *w = weight;
        for (int32_t o = 0; o < p->out_features; o++, w += p->in_features) {
            const int32_t sum = dot(w, input, p->in_features, p->filter_offset, p->input_offset) + (bias ? bias[o] : 0);
            *output++ = lfwd_requantize_s8(sum, p->multiplier, p->shift, p->output_offset, p->act_min, p->act_max);
        }
    }
}
