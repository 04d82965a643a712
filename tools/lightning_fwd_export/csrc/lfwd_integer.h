/* Kernels of a training step in integers: int8 activations, int16 errors and master weights, int32 sums, each value with an int8 exponent
 * (value = q * 2^-exponent). No float anywhere. Tensors are contiguous in their logical order (NCHW); the definition of every function is
 * the reference of the operator of the same name in lightning_fwd/integer, whose bits it gives.
 */
#ifndef LFWD_INTEGER_H
#define LFWD_INTEGER_H
#include <stdint.h>

/* A convolution; a 1-d one is a 2-d one of height 1. */
typedef struct {
    int32_t batch, in_c, in_h, in_w, out_c, out_h, out_w, k_h, k_w, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups;
} lfwd_int_conv_shape;

typedef struct {
    int32_t planes, in_h, in_w, out_h, out_w, k_h, k_w, stride_h, stride_w, pad_h, pad_w;
} lfwd_int_pool_shape;

/* A weight: int16 masters (the high byte is the int8 view) or frozen int8 values, with an exponent per row. */
typedef struct {
    const int16_t *masters; /* or 0 */
    const int8_t *frozen;
    const int8_t *exponents;
} lfwd_int_weight;

/* What an update multiplies: c (rate times error, int16) and x (int8), their exponents, and where its draws come from. */
typedef struct {
    const int16_t *c;
    const int8_t *c_exponent, *x, *x_exponent, *exponents;
    const int64_t *counter;
    uint32_t stream;
} lfwd_int_update;

/* A contrast of goodness; the threshold is on a sample's sum of squares. */
typedef struct {
    int32_t threshold, threshold_below, mult, below, symmetric;
} lfwd_int_contrast;

/* A random direction of a parameter, drawn from counter * times + plus; 2^-wanted is the displacement asked for. */
typedef struct {
    const int64_t *counter;
    uint32_t times, plus;
    int32_t wanted;
} lfwd_int_direction;

/* integer_rescale.c */
void lfwd_int_exponent(const int8_t *a, int32_t na, const int8_t *b, int32_t nb, int32_t sign, int32_t constant, int8_t *out);
void lfwd_int_smaller(const int8_t *a, const int8_t *b, int8_t *out);
void lfwd_int_larger(const int8_t *a, const int8_t *b, int8_t *out);
void lfwd_int_requantise(const int32_t *acc, int32_t n, const int8_t *exponent, const int8_t *out_exponent, int32_t mult, int32_t relu,
                         int8_t *y);
void lfwd_int_needed_exponent(const int32_t *acc, int32_t n, const int8_t *exponent, int32_t mult, int32_t relu, int8_t *out);
void lfwd_int_coarsen(int8_t *exponent, const int8_t *needed);
void lfwd_int_narrow_shift(const int32_t *acc, const int8_t *mask, int32_t n, int32_t bits, int8_t *out);
void lfwd_int_narrow(const int32_t *acc, const int8_t *mask, int32_t n, const int8_t *shift, int32_t bits, int16_t *e);
void lfwd_int_mask(const int16_t *e, const int8_t *mask, int32_t n, int16_t *out);
void lfwd_int_error_sum(const int16_t *e, int32_t n, int32_t *sums);
void lfwd_int_pool_sum(const int8_t *x, const lfwd_int_pool_shape *s, int32_t *out);
void lfwd_int_add(const int8_t *a, const int8_t *a_exponent, const int8_t *b, const int8_t *b_exponent, int32_t n, int32_t *out);
void lfwd_int_softmax_error(const int32_t *logits, const int8_t *exponent, const int64_t *target, int32_t batch, int32_t classes, int16_t *e);

/* integer_goodness.c. pairs: positive samples, as many negative ones behind them; n: values of a sample; labels 0: the neutral label */
void lfwd_int_contrast_error(const int8_t *h, const int8_t *exponent, const lfwd_int_contrast *s, int32_t pairs, int32_t n, int32_t *e);
void lfwd_int_sample_norm(const int8_t *h, int32_t batch, int32_t n, int32_t *y);
void lfwd_int_wrong_labels(const int64_t *target, const int64_t *counter, uint32_t steps, uint32_t seed, int32_t batch, uint32_t classes,
                           int64_t *out);
void lfwd_int_label_overlay(const int8_t *x, const int8_t *exponent, const int64_t *labels, int32_t batch, int32_t copies, int32_t n,
                            int32_t classes, int32_t mult, int32_t below, int8_t *y);
void lfwd_int_label_rows(const int8_t *matrix, const int8_t *exponents, const int64_t *labels, int32_t rows, int32_t classes, int32_t n,
                         int32_t *out);
void lfwd_int_add_sums(const int32_t *a, const int8_t *a_exponent, const int32_t *b, const int8_t *b_exponent, int32_t n, int32_t *out);

/* A residual sum of a frozen body: (a of_a + b of_b + offset) >> right, and the zero and the lower bound of the result. */
typedef struct {
    int32_t of_a, of_b, offset, right, zero, low;
} lfwd_int_sum;

/* integer_layout.c: a sum; sums over images channels last, and features of these; of each of batch matrices (rows, columns) the transposed one */
void lfwd_int_body_add(const int8_t *a, const int8_t *b, const lfwd_int_sum *s, int32_t n, int8_t *y);
void lfwd_int_body_sums(const int8_t *x, int32_t batch, int32_t pixels, int32_t channels, int32_t zero, int32_t *sums);
void lfwd_int_body_features(const int32_t *sums, const int32_t *start, const int32_t *multiplier, const int32_t *shift, int32_t batch,
                            int32_t width, int8_t *y);
void lfwd_int_transpose(const int8_t *x, int32_t batch, int32_t rows, int32_t columns, int8_t *y);

/* integer_layers.c; scratch: LFWD_INT_CONV_SCRATCH bytes for so many values of a filter, aligned to 4 */
#define LFWD_INT_CONV_SCRATCH(values) (6 * (values) + 16)
void lfwd_int_linear(const int8_t *x, const lfwd_int_weight *w, const int32_t *bias, const int8_t *x_exponent, int32_t batch, int32_t out,
                     int32_t in, int32_t *acc);
void lfwd_int_conv(const int8_t *x, const lfwd_int_weight *w, const int32_t *bias, const int8_t *x_exponent, const lfwd_int_conv_shape *s,
                   void *scratch, int32_t *acc);
/* added to the sums `base` of another exponent */
void lfwd_int_conv_onto(const int8_t *x, const lfwd_int_weight *w, const int8_t *x_exponent, const lfwd_int_conv_shape *s, void *scratch,
                        const int32_t *base, const int8_t *base_exponent, int32_t *acc);

/* integer_back.c; linear_error, conv_error: through the weights as they are, not transposed */
void lfwd_int_linear_error(const int16_t *e, const lfwd_int_weight *w, int32_t batch, int32_t out, int32_t in, int32_t *acc);
void lfwd_int_linear_back(const int16_t *e, const lfwd_int_weight *w, int32_t batch, int32_t out, int32_t in, int32_t *acc);
void lfwd_int_conv_error(const int16_t *e, const lfwd_int_weight *w, const lfwd_int_conv_shape *s, int32_t *acc);
/* scratch: LFWD_INT_BACK_SCRATCH bytes, aligned to 4 */
#define LFWD_INT_BACK_SCRATCH(outputs, taps) (8 * (outputs) * ((taps) + 1) + 16)
void lfwd_int_conv_back(const int16_t *e, const lfwd_int_weight *w, const lfwd_int_conv_shape *s, void *scratch, int32_t *acc);

/* integer_updates.c. index: which inputs learn (0: all); columns: inputs of the whole weight; scratch: LFWD_INT_UPDATE_SCRATCH bytes,
 * aligned to 4, for 1 line of draws, 2 of a velocity; of an application, a draw (uint16) per column that learns. */
#define LFWD_INT_UPDATE_SCRATCH(lines, width, outputs) (2 * (((lines) * (width) + 1) / 2 * 2) + 1536 + 48 * ((outputs) + 1) + 32)
void lfwd_int_apply_rate(const int16_t *e, int32_t n, const int32_t *rate, int32_t mult, int32_t bits, int16_t *c);
void lfwd_int_rate_exponent(const int32_t *rate, const int8_t *e_exponent, int32_t ne, int32_t constant, int8_t *out);
void lfwd_int_outer_update(int16_t *masters, const lfwd_int_update *u, int32_t batch, int32_t out, int32_t in, const int64_t *index,
                           int32_t columns, uint16_t *scratch);
void lfwd_int_outer_velocity(int16_t *velocity, const lfwd_int_update *u, const int32_t *rate, int32_t batch, int32_t out, int32_t in,
                             uint16_t *scratch);
void lfwd_int_conv_update(int16_t *masters, const lfwd_int_update *u, const lfwd_int_conv_shape *s, const int64_t *index, int32_t columns,
                          uint16_t *scratch);
void lfwd_int_conv_velocity(int16_t *velocity, const lfwd_int_update *u, const int32_t *rate, const lfwd_int_conv_shape *s,
                            uint16_t *scratch);
void lfwd_int_apply_velocity(int16_t *masters, const int16_t *velocity, const int64_t *counter, uint32_t stream, int32_t rows, int32_t in,
                             int32_t taps, const int64_t *index, int32_t columns, uint16_t *scratch);
void lfwd_int_bias_update(int32_t *bias, const int16_t *c, const int8_t *c_exponent, const int64_t *counter, uint32_t stream, int32_t batch,
                          int32_t out, int32_t positions);
void lfwd_int_bias_velocity(int32_t *velocity, const int16_t *c, const int8_t *c_exponent, const int64_t *counter, uint32_t stream,
                            const int32_t *rate, int32_t batch, int32_t out, int32_t positions);
void lfwd_int_apply_bias_velocity(int32_t *bias, const int32_t *velocity, const int64_t *counter, uint32_t stream, int32_t n);
void lfwd_int_saturated(const int16_t *masters, int32_t rows, int32_t columns, const int64_t *counter, int8_t *flags);
void lfwd_int_ratchet(int16_t *values, const int8_t *flags, int32_t rows, int32_t columns, int32_t offset);
void lfwd_int_ratchet_exponents(int8_t *exponents, const int8_t *flags, int32_t rows);
void lfwd_int_next(int64_t *counter);

/* integer_directions.c: an int8 view and biases displaced, the slope <e, after - before> of n logits, changes along a direction of what
 * c (one value) says; scratch: a draw (uint16) per column;
 * exponents of a bias: of the rows of its layer's weight, where that moves too, or 0. */
void lfwd_int_moved(const int16_t *masters, const int8_t *exponents, const lfwd_int_direction *d, int32_t rows, int32_t columns, int8_t *view);
void lfwd_int_moved_bias(const int32_t *bias, const int8_t *exponents, int32_t rows, const lfwd_int_direction *d, int32_t n, int32_t *out);
void lfwd_int_slope_shift(const int16_t *e, const int32_t *after, const int32_t *before, int32_t n, int8_t *out);
void lfwd_int_slope(const int16_t *e, const int32_t *after, const int32_t *before, int32_t n, const int8_t *shift, int16_t *out);
void lfwd_int_direction_update(int16_t *masters, const int8_t *exponents, const int16_t *c, const int8_t *c_exponent, uint32_t stream,
                               const lfwd_int_direction *d, int32_t rows, int32_t columns, uint16_t *scratch);
void lfwd_int_direction_bias_update(int32_t *bias, const int8_t *exponents, int32_t rows, const int16_t *c, const int8_t *c_exponent,
                                    uint32_t stream, const lfwd_int_direction *d, int32_t n);
#endif
