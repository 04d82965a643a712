/* The int8 kernels by CMSIS-NN, same names and arguments, for a comparison on the same constants and the same memory plan.
 *
 * CMSIS-NN takes the bias and, with Helium, sums of weights for fully connected layers: both are worked out at the first call
 * of a layer and kept, so that a second run is measured without. */
#include <stdlib.h>

#include "arm_nnfunctions.h"
#include "lfwd_int8.h"

static uint8_t buffer[128 * 1024] __attribute__((aligned(16)));
static struct {
    const int32_t *start;
    int32_t *values;
} kept[64];

static int32_t *room(const int32_t *start, int32_t count, int *found)
{
    int k = 0;
    while (k < 64 && kept[k].start && kept[k].start != start) k++;
    if (k == 64) exit(7);
    *found = kept[k].start == start;
    if (!*found) {
        kept[k].start = start;
        kept[k].values = malloc((size_t)count * sizeof(int32_t));
        if (!kept[k].values) exit(8);
    }
    return kept[k].values;
}

/* start - input_offset * sum of the weights of output o, which stand `step` apart, `row` behind those of the output before. */
static const int32_t *bias_of(const int32_t *start, const int8_t *weight, int32_t outputs, int32_t count, int32_t row, int32_t step,
                              int32_t offset)
{
    int found;
    int32_t *bias = room(start, outputs, &found);
    for (int32_t o = 0; !found && o < outputs; o++) {
        int32_t sum = 0;
        for (int32_t k = 0; k < count; k++) sum += weight[o * row + k * step];
        bias[o] = start[o] - offset * sum;
    }
    return bias;
}

static void check(arm_cmsis_nn_status status, int32_t bytes)
{
    if (status != ARM_CMSIS_NN_SUCCESS || bytes > (int32_t)sizeof buffer) exit(9);
}

void lfwd_conv2d_s8(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                    const int32_t *multiplier, const int32_t *shift, void *scratch, int32_t scratch_bytes, int8_t *output)
{
    const int32_t filter = p->kernel_h * p->kernel_w * p->kernel_c;
    const int32_t *bias = bias_of(start, weight, p->out_c, filter, filter, 1, p->input_offset);
    const cmsis_nn_conv_params conv = {p->input_offset, p->output_offset, {p->stride_w, p->stride_h}, {p->pad_left, p->pad_top},
                                       {p->dilation_w, p->dilation_h}, {p->act_min, p->act_max}};
    const cmsis_nn_per_channel_quant_params quant = {(int32_t *)multiplier, (int32_t *)shift};
    const cmsis_nn_dims in = {p->batch, p->in_h, p->in_w, p->in_c}, out = {p->batch, p->out_h, p->out_w, p->out_c};
    const cmsis_nn_dims kernel = {p->out_c, p->kernel_h, p->kernel_w, p->kernel_c}, channels = {1, 1, 1, p->out_c};
    const int32_t bytes = arm_convolve_wrapper_s8_get_buffer_size(&conv, &in, &kernel, &out);
    const cmsis_nn_context context = {buffer, bytes};
    check(arm_convolve_wrapper_s8(&context, &conv, &quant, &in, input, &kernel, weight, &channels, bias, &out, output), bytes);
    (void)scratch, (void)scratch_bytes;
}

void lfwd_depthwise_conv2d_s8(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                              const int32_t *multiplier, const int32_t *shift, void *scratch, int32_t scratch_bytes, int8_t *output)
{
    const int32_t taps = p->kernel_h * p->kernel_w;
    const int32_t *bias = bias_of(start, weight, p->out_c, taps, 1, p->out_c, p->input_offset);
    const cmsis_nn_dw_conv_params conv = {p->input_offset, p->output_offset, p->out_c / p->in_c, {p->stride_w, p->stride_h},
                                          {p->pad_left, p->pad_top}, {p->dilation_w, p->dilation_h}, {p->act_min, p->act_max}};
    const cmsis_nn_per_channel_quant_params quant = {(int32_t *)multiplier, (int32_t *)shift};
    const cmsis_nn_dims in = {p->batch, p->in_h, p->in_w, p->in_c}, out = {p->batch, p->out_h, p->out_w, p->out_c};
    const cmsis_nn_dims kernel = {1, p->kernel_h, p->kernel_w, p->out_c}, channels = {1, 1, 1, p->out_c};
    const int32_t bytes = arm_depthwise_conv_wrapper_s8_get_buffer_size(&conv, &in, &kernel, &out);
    const cmsis_nn_context context = {buffer, bytes};
    check(arm_depthwise_conv_wrapper_s8(&context, &conv, &quant, &in, input, &kernel, weight, &channels, bias, &out, output), bytes);
    (void)scratch, (void)scratch_bytes;
}

void lfwd_linear_s8(const lfwd_linear_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start, int8_t *output)
{
    /* start holds the input's offset already, so offset 0 gives the same sums by the same instructions */
    const cmsis_nn_fc_params fc = {0, p->filter_offset, p->output_offset, {p->act_min, p->act_max}};
    const cmsis_nn_per_tensor_quant_params quant = {p->multiplier, p->shift};
    const cmsis_nn_dims in = {p->rows, 1, 1, p->in_features}, out = {p->rows, 1, 1, p->out_features};
    const cmsis_nn_dims kernel = {p->in_features, 1, 1, p->out_features}, channels = {1, 1, 1, p->out_features};
    int32_t *sums = (int32_t *)(void *)buffer;
    const int32_t bytes = arm_fully_connected_s8_get_buffer_size(&kernel);
    if (bytes) {
        int found;
        sums = room(start, p->out_features, &found);
        if (!found) check(arm_vector_sum_s8(sums, p->in_features, p->out_features, weight, 0, p->filter_offset, start), 0);
    }
    const cmsis_nn_context context = {sums, bytes};
    check(arm_fully_connected_s8(&context, &fc, &quant, &in, input, &kernel, weight, &channels, start, &out, output), bytes);
}

void lfwd_avg_pool2d_s8(const lfwd_pool_s8_params *p, const int8_t *input, int8_t *output)
{
    const cmsis_nn_pool_params pool = {{p->stride_w, p->stride_h}, {p->pad_left, p->pad_top}, {p->act_min, p->act_max}};
    const cmsis_nn_dims in = {p->batch, p->in_h, p->in_w, p->channels}, out = {p->batch, p->out_h, p->out_w, p->channels};
    const cmsis_nn_dims kernel = {1, p->kernel_h, p->kernel_w, 1};
    const int32_t bytes = arm_avgpool_s8_get_buffer_size(p->out_w, p->channels);
    const cmsis_nn_context context = {buffer, bytes};
    check(arm_avgpool_s8(&context, &pool, &in, input, &kernel, &out, output), bytes);
}

void lfwd_add_s8(const lfwd_add_s8_params *p, const int8_t *a, const int8_t *b, int32_t count, int8_t *out)
{
    check(arm_elementwise_add_s8(a, b, -p->a_zero_point, p->a_multiplier, p->a_shift, -p->b_zero_point, p->b_multiplier, p->b_shift,
                                 20, out, p->out_zero_point, p->out_multiplier, p->out_shift, p->act_min, p->act_max, count),
          0);
}
