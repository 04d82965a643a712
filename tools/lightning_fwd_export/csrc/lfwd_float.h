/* Float kernels for the operators a training step traces to. Tensors are contiguous in their logical order (NCHW)
 * unless a stride table says otherwise; strides count elements. bool is uint8_t, class indices are int64_t.
 */
#ifndef LFWD_FLOAT_H
#define LFWD_FLOAT_H
#include <stdint.h>

/* Broadcasting over at most four collapsed dimensions: stride[i] belongs to operand i, 0 repeats it. */
typedef struct {
    int32_t size[4];
    int32_t stride[3][4];
} lfwd_broadcast;

/* Reads with in[], writes with out[]. */
typedef struct {
    int32_t size[4], in[4], out[4];
} lfwd_strides;

/* Output runs over keep[]; each output element reduces over reduce[]. */
typedef struct {
    int32_t keep[3], keep_stride[3];
    int32_t reduce[3], reduce_stride[3];
} lfwd_reduction;

/* (outer, dim, inner): the dimension an operator works along, and what lies around it. */
typedef struct {
    int32_t outer, dim, inner;
} lfwd_axis;

/* elementwise_f32.c: out = f(a, b) with broadcasting */
void lfwd_add_f32(const float *a, const float *b, const lfwd_broadcast *s, float *out);
void lfwd_add_scaled_f32(const float *a, const float *b, float alpha, const lfwd_broadcast *s, float *out);
void lfwd_sub_f32(const float *a, const float *b, const lfwd_broadcast *s, float *out);
void lfwd_mul_f32(const float *a, const float *b, const lfwd_broadcast *s, float *out);
void lfwd_div_f32(const float *a, const float *b, const lfwd_broadcast *s, float *out);
void lfwd_maximum_f32(const float *a, const float *b, const lfwd_broadcast *s, float *out);
void lfwd_minimum_f32(const float *a, const float *b, const lfwd_broadcast *s, float *out);
void lfwd_fmod_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, int64_t *out); /* 0 if b is 0 */
void lfwd_fmod_f32(const float *a, const float *b, const lfwd_broadcast *s, float *out);
void lfwd_pow_f32(const float *a, const float *b, const lfwd_broadcast *s, float *out);
void lfwd_add_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, int64_t *out);
void lfwd_sub_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, int64_t *out);
void lfwd_mul_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, int64_t *out);
void lfwd_remainder_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, int64_t *out); /* 0 if b is 0 */
void lfwd_bitwise_and_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, int64_t *out);
void lfwd_bitwise_or_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, int64_t *out);
void lfwd_bitwise_xor_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, int64_t *out);
void lfwd_shift_left_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, int64_t *out);
void lfwd_shift_right_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, int64_t *out);
#define LFWD_DECLARE_COMPARE(op)                                                                      \
    void lfwd_##op##_f32(const float *a, const float *b, const lfwd_broadcast *s, uint8_t *out);       \
    void lfwd_##op##_i64(const int64_t *a, const int64_t *b, const lfwd_broadcast *s, uint8_t *out);
LFWD_DECLARE_COMPARE(eq)
LFWD_DECLARE_COMPARE(ne)
LFWD_DECLARE_COMPARE(gt)
LFWD_DECLARE_COMPARE(ge)
LFWD_DECLARE_COMPARE(lt)
LFWD_DECLARE_COMPARE(le)
void lfwd_logical_and_u8(const uint8_t *a, const uint8_t *b, const lfwd_broadcast *s, uint8_t *out);
void lfwd_logical_or_u8(const uint8_t *a, const uint8_t *b, const lfwd_broadcast *s, uint8_t *out);
void lfwd_logical_xor_u8(const uint8_t *a, const uint8_t *b, const lfwd_broadcast *s, uint8_t *out);
/* condition ? a : b; operands in the order condition, a, b */
void lfwd_where_f32(const uint8_t *condition, const float *a, const float *b, const lfwd_broadcast *s, float *out);
void lfwd_where_i64(const uint8_t *condition, const int64_t *a, const int64_t *b, const lfwd_broadcast *s,
                    int64_t *out);

/* unary_f32.c */
#define LFWD_DECLARE_UNARY(op) void lfwd_##op##_f32(const float *in, int32_t count, float *out);
LFWD_DECLARE_UNARY(relu)
LFWD_DECLARE_UNARY(neg)
LFWD_DECLARE_UNARY(abs)
LFWD_DECLARE_UNARY(exp)
LFWD_DECLARE_UNARY(expm1)
LFWD_DECLARE_UNARY(log)
LFWD_DECLARE_UNARY(log1p)
LFWD_DECLARE_UNARY(sqrt)
LFWD_DECLARE_UNARY(rsqrt)
LFWD_DECLARE_UNARY(reciprocal)
LFWD_DECLARE_UNARY(sigmoid)
LFWD_DECLARE_UNARY(tanh)
LFWD_DECLARE_UNARY(sign)
LFWD_DECLARE_UNARY(erf)
LFWD_DECLARE_UNARY(sin)
LFWD_DECLARE_UNARY(cos)
LFWD_DECLARE_UNARY(floor)
LFWD_DECLARE_UNARY(ceil)
LFWD_DECLARE_UNARY(gelu)
LFWD_DECLARE_UNARY(gelu_tanh) /* its approximation by tanh */
/* scale * x where x > 0, else scale * alpha * (exp(input_scale * x) - 1) */
void lfwd_elu_f32(const float *in, int32_t count, float alpha, float scale, float input_scale, float *out);
void lfwd_clamp_f32(const float *in, int32_t count, float low, float high, float *out);
void lfwd_leaky_relu_f32(const float *in, int32_t count, float slope, float *out);
void lfwd_logical_not_u8(const uint8_t *in, int32_t count, uint8_t *out);

/* copy.c: element is the size in bytes: 1, 2, 4 or 8 */
void lfwd_copy_strided(const void *in, const lfwd_strides *s, int32_t element, void *out);
void lfwd_fill_f32(float value, int32_t count, float *out);
void lfwd_fill_i64(int64_t value, int32_t count, int64_t *out);
void lfwd_arange_i64(int64_t start, int64_t step, int32_t count, int64_t *out);
void lfwd_arange_f32(float start, float step, int32_t count, float *out);
void lfwd_cast_u8_f32(const uint8_t *in, int32_t count, float *out);
void lfwd_cast_i64_f32(const int64_t *in, int32_t count, float *out);
void lfwd_cast_i32_f32(const int32_t *in, int32_t count, float *out);
void lfwd_cast_s8_f32(const int8_t *in, int32_t count, float *out);
void lfwd_cast_u8_i64(const uint8_t *in, int32_t count, int64_t *out);
void lfwd_cast_i64_u8(const int64_t *in, int32_t count, uint8_t *out);
void lfwd_cast_f32_i64(const float *in, int32_t count, int64_t *out);
void lfwd_cast_f32_u8(const float *in, int32_t count, uint8_t *out);

/* reduce_f32.c */
void lfwd_sum_f32(const float *in, const lfwd_reduction *s, float *out);
void lfwd_mean_f32(const float *in, const lfwd_reduction *s, float *out);
void lfwd_amax_f32(const float *in, const lfwd_reduction *s, float *out);
void lfwd_amin_f32(const float *in, const lfwd_reduction *s, float *out);
void lfwd_var_f32(const float *in, const lfwd_reduction *s, float correction, float *out);
void lfwd_sum_i64(const int64_t *in, const lfwd_reduction *s, int64_t *out);
void lfwd_sum_u8_i64(const uint8_t *in, const lfwd_reduction *s, int64_t *out);
void lfwd_any_u8(const uint8_t *in, const lfwd_reduction *s, uint8_t *out);
void lfwd_argmax_f32(const float *in, lfwd_axis axis, int64_t *out);
void lfwd_topk_f32(const float *in, lfwd_axis axis, int32_t k, float *values, int64_t *index); /* k <= axis.dim; largest first */
void lfwd_softmax_f32(const float *in, lfwd_axis axis, float *out);
void lfwd_log_softmax_f32(const float *in, lfwd_axis axis, float *out);

/* index.c: an index outside the dimension reads as zero and writes nothing */
void lfwd_gather_f32(const float *in, lfwd_axis in_axis, const int64_t *index, int32_t index_dim, float *out);
void lfwd_gather_i64(const int64_t *in, lfwd_axis in_axis, const int64_t *index, int32_t index_dim, int64_t *out);
void lfwd_scatter_f32(const float *in, lfwd_axis axis, const int64_t *index, int32_t index_dim, const float *source,
                      float *out);
void lfwd_scatter_value_f32(const float *in, lfwd_axis axis, const int64_t *index, int32_t index_dim, float value,
                            float *out);
void lfwd_scatter_value_i64(const int64_t *in, lfwd_axis axis, const int64_t *index, int32_t index_dim, int64_t value,
                            int64_t *out);
void lfwd_scatter_add_f32(const float *in, lfwd_axis axis, const int64_t *index, int32_t index_dim,
                          const float *source, float *out);
void lfwd_index_select_f32(const float *in, lfwd_axis axis, const int64_t *index, int32_t count, float *out);
void lfwd_index_select_s8(const int8_t *in, lfwd_axis axis, const int64_t *index, int32_t count, int8_t *out);
void lfwd_index_select_i64(const int64_t *in, lfwd_axis axis, const int64_t *index, int32_t count, int64_t *out);

/* matmul_f32.c */
void lfwd_mm_f32(const float *a, const float *b, int32_t m, int32_t k, int32_t n, float *out);
void lfwd_addmm_f32(const float *bias, int32_t bias_row, int32_t bias_column, const float *a, const float *b, int32_t m,
                    int32_t k, int32_t n, float beta, float alpha, float *out);
void lfwd_bmm_f32(const float *a, const float *b, int32_t batch, int32_t m, int32_t k, int32_t n, float *out);
/* x (rows, in), weight (out, in), bias (out) or null */
void lfwd_linear_f32(const float *x, const float *weight, const float *bias, int32_t rows, int32_t in_features,
                     int32_t out_features, float *out);

/* conv2d_f32.c, conv2d_grad_f32.c, conv2d_update_f32.c: x (batch, in_c, in_h, in_w), weight (out_c, in_c / groups, kernel_h,
 * kernel_w). Each takes `scratch`: as many floats as the function of its name says, which the generated code has planned. */
typedef struct {
    int32_t batch, in_c, in_h, in_w;
    int32_t out_c, out_h, out_w;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int32_t groups;
} lfwd_conv2d_shape;

void lfwd_conv2d_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *scratch,
                     float *out);
void lfwd_conv2d_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *scratch,
                                float *out);
void lfwd_conv2d_grad_weight_f32(const float *grad, const float *x, const lfwd_conv2d_shape *s, float *scratch, float *out);
int32_t lfwd_conv2d_scratch(const lfwd_conv2d_shape *s);
int32_t lfwd_conv2d_grad_input_scratch(const lfwd_conv2d_shape *s);
int32_t lfwd_sgd_conv2d_scratch(const lfwd_conv2d_shape *s); /* of the weight gradient too */

/* pool_f32.c */
typedef struct {
    int32_t planes, in_h, in_w, out_h, out_w;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int32_t count_pad; /* average: divide by the whole window, padding included */
    int32_t divisor;   /* average: 0 unless it replaces the window size */
} lfwd_pool2d_shape;

void lfwd_max_pool2d_f32(const float *x, const lfwd_pool2d_shape *s, float *out, int64_t *index);
/* index: position of each maximum in its plane; a plane has `image` elements before and `pooled` after pooling */
void lfwd_max_pool2d_backward_f32(const float *grad, const int64_t *index, int32_t planes, int32_t image, int32_t pooled,
                                  float *out);
void lfwd_avg_pool2d_f32(const float *x, const lfwd_pool2d_shape *s, float *out);
void lfwd_avg_pool2d_backward_f32(const float *grad, const lfwd_pool2d_shape *s, float *out);
/* Only the sizes of the shape count: windows are spread evenly over the image. */
void lfwd_adaptive_avg_pool2d_f32(const float *x, const lfwd_pool2d_shape *s, float *out);
void lfwd_adaptive_avg_pool2d_backward_f32(const float *grad, const lfwd_pool2d_shape *s, float *out);

/* norm_f32.c: x (batch, channels, inner); weight and bias may be null */
void lfwd_batch_norm_f32(const float *x, const float *weight, const float *bias, const float *mean, const float *var,
                         float eps, lfwd_axis axis, float *out);
void lfwd_layer_norm_f32(const float *x, const float *weight, const float *bias, int32_t rows, int32_t width, float eps,
                         float *out, float *mean, float *rstd);
/* mean and rstd per sample and group */
void lfwd_group_norm_f32(const float *x, const float *weight, const float *bias, lfwd_axis axis, int32_t groups, float eps,
                         float *out, float *mean, float *rstd);
/* Gradient of relu given its output: grad where out > 0, else 0. */
void lfwd_relu_backward_f32(const float *grad, const float *relu_out, int32_t count, float *out);

/* feedback_f32.c */
/* out = x + F error, x (batch, n_in), error (batch, classes); F (n_in, classes), uniform in +-bound, is made from its seed. */
void lfwd_modulate_from_seed_f32(const float *x, const float *error, int32_t batch, int32_t n_in, int32_t classes,
                                 int64_t seed, float bound, float *out);
/* One bit per element, bit i % 8 of byte i / 8: x > 0; and the gradient where its bit is set (out may be grad). */
void lfwd_positive_bits_f32(const float *x, int32_t count, uint8_t *bits);
void lfwd_where_bits_f32(const float *grad, const uint8_t *bits, int32_t count, float *out);

/* sgd_f32.c, conv2d_update_f32.c: state = decay * state - lr * gradient, with no gradient tensor ever in memory.
 * SGD: decay 1. Momentum buffer: lr -1, decay = momentum; then lfwd_sgd_f32 with the buffer as gradient. */
void lfwd_sgd_f32(float *state, const float *grad, int32_t count, float lr, float decay);
void lfwd_sgd_outer_f32(float *state, const float *grad, const float *x, int32_t rows, int32_t out_features,
                        int32_t in_features, float lr, float decay); /* gradient = grad^T x */
void lfwd_sgd_part_f32(float *state, lfwd_axis axis, const float *grad, const int64_t *index, int32_t count, float lr,
                       float decay); /* only `count` entries along the axis learn; grad has (outer, count, inner) */
void lfwd_sgd_conv2d_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr,
                         float decay, float *scratch); /* gradient = weight gradient of conv2d */

/* eigen_f32.c: a (n, n), symmetric, gets its eigenvalues on the diagonal, in no order. rows (n, n) are turned as the eigenvectors are: rows
 * of the identity become them. */
void lfwd_eigen_f32(float *a, int32_t n, float *rows);

/* transport_f32.c: from sums of `count` values around the source's mean to the map that gives them the source's covariance. `strength` of
 * it, the rest the identity; what varies less than the share `least` of the largest counts as that share. */
void lfwd_transport_f32(const float *total, const float *products, const int64_t *count, const float *deviation,
                        const int16_t *correlation /* binary16, the upper triangle */, int32_t n, float least, float strength,
                        float *scratch /* n (n + 2) */, float *out /* (n, n) */);
void lfwd_scaling_f32(const float *total, const float *squares, const int64_t *count, const float *deviation, int32_t n, float least,
                      float strength, float *out); /* the same of values that are mapped one by one */
/* weight' = weight map, along the axis that the map reads. */
void lfwd_fold_f32(float *weight, const float *matrix, lfwd_axis axis, float *scratch /* axis.dim */);
void lfwd_fold_single_f32(float *weight, const float *factors, lfwd_axis axis, int32_t groups); /* a factor for each of groups * axis.dim */
#endif
