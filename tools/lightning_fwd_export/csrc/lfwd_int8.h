/* Int8 inference kernels, NHWC, CMSIS-NN requantisation (double rounding).
 *
 * real = scale * (q - zero_point). "offset" arguments follow CMSIS-NN: input_offset = -zero_point of the input,
 * output_offset = +zero_point of the output. Every kernel exists as plain C; where the compiler says so
 * (__ARM_FEATURE_DSP, __ARM_FEATURE_MVE) a faster body with the same bits takes its place. LFWD_PLAIN forces plain C.
 *
 * "start" is what a sum begins with, added up at export: bias + input_offset * sum(weights). The input then enters as it is, and
 * a padded position as the zero point: sum(w (x + offset)) + bias = sum(w x) + start.
 * "narrow" is the exporter's word that every sum stays within 30 bits and its sign and that every shift is to the right. The fast
 * bodies rely on it; without it the plain ones run: same result, slower.
 */
#ifndef LFWD_INT8_H
#define LFWD_INT8_H
#include <stdint.h>

#if defined(LFWD_PLAIN)
#define LFWD_MVE 0
#define LFWD_DSP 0
#elif defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#define LFWD_MVE 1
#define LFWD_DSP 0
#elif defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32)
#define LFWD_MVE 0
#define LFWD_DSP 1
#else
#define LFWD_MVE 0
#define LFWD_DSP 0
#endif

typedef struct {
    int32_t batch, in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t kernel_c; /* input channels per group */
    int32_t stride_h, stride_w;
    int32_t pad_top, pad_left; /* bottom and right padding follow from out_h, out_w */
    int32_t dilation_h, dilation_w;
    int32_t input_offset, output_offset;
    int32_t act_min, act_max;
    int32_t narrow;
} lfwd_conv2d_s8_params;

/* Scratch that lets the fast bodies run (aligned to 4 bytes; one size serves every core). Convolution: two columns of int16 with
 * DSP, four of int8 with Helium. Depthwise: a pixel of zero points. */
#define LFWD_CONV2D_S8_SCRATCH(kernel_h, kernel_w, in_c) (4 * (kernel_h) * (kernel_w) * (in_c) + 16)
#define LFWD_DEPTHWISE_S8_SCRATCH(in_c) ((in_c) + 16)

/* weight (out_c, kernel_h, kernel_w, kernel_c); start, multiplier and shift per output channel. */
void lfwd_conv2d_s8(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                    const int32_t *multiplier, const int32_t *shift, void *scratch, int32_t scratch_bytes,
                    int8_t *output);

/* weight (kernel_h, kernel_w, out_c), out_c = in_c * depth multiplier. */
void lfwd_depthwise_conv2d_s8(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight,
                              const int32_t *start, const int32_t *multiplier, const int32_t *shift, void *scratch,
                              int32_t scratch_bytes, int8_t *output);

typedef struct {
    int32_t rows, in_features, out_features;
    int32_t filter_offset; /* with one, the plain body runs */
    int32_t output_offset;
    int32_t multiplier, shift;
    int32_t act_min, act_max;
    int32_t narrow;
} lfwd_linear_s8_params;

/* weight (out_features, in_features). */
void lfwd_linear_s8(const lfwd_linear_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                    int8_t *output);

typedef struct {
    int32_t a_zero_point, a_multiplier, a_shift;
    int32_t b_zero_point, b_multiplier, b_shift;
    int32_t out_zero_point, out_multiplier, out_shift;
    int32_t act_min, act_max;
} lfwd_add_s8_params;

void lfwd_add_s8(const lfwd_add_s8_params *p, const int8_t *a, const int8_t *b, int32_t count, int8_t *out);
void lfwd_mul_s8(const int8_t *a, int32_t a_zero_point, const int8_t *b, int32_t b_zero_point, int32_t out_zero_point,
                 int32_t multiplier, int32_t shift, int32_t count, int8_t *out);
void lfwd_maximum_s8(const int8_t *a, const int8_t *b, int32_t count, int8_t *out);
void lfwd_minimum_s8(const int8_t *a, const int8_t *b, int32_t count, int8_t *out);
void lfwd_clamp_s8(const int8_t *input, int32_t count, int32_t low, int32_t high, int8_t *out);
void lfwd_lookup_s8(const int8_t *input, const int8_t *table, int32_t count, int8_t *out);

typedef struct {
    int32_t batch, in_h, in_w, channels, out_h, out_w;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
    int32_t act_min, act_max;
} lfwd_pool_s8_params;

/* Average rounds half away from zero (integers, as CMSIS-NN); padding is not counted. */
void lfwd_avg_pool2d_s8(const lfwd_pool_s8_params *p, const int8_t *input, int8_t *output);
void lfwd_max_pool2d_s8(const lfwd_pool_s8_params *p, const int8_t *input, int8_t *output);

void lfwd_pad_s8(const int8_t *input, const int32_t size[4], const int32_t before[4], const int32_t after[4],
                 int8_t value, int8_t *output);

void lfwd_quantize_s8(const float *input, int32_t count, float scale, int32_t zero_point, int32_t q_min, int32_t q_max,
                      int8_t *output);
void lfwd_dequantize_s8(const int8_t *input, int32_t count, float scale, int32_t zero_point, float *output);
/* Softmax over the last dimension; output scale 1/256, zero point -128. */
void lfwd_softmax_s8(const int8_t *input, int32_t rows, int32_t columns, float input_scale, int8_t *output);
#endif
