/* Gradient of the float convolution to its weights, and the update that never holds it. The gradient of one tap is a dot product
 * of two planes; blocks of four outputs by four channels share their loads. */
#include <string.h>

#include "lfwd_conv_f32.h"

/* Output positions [from, from + count) along one dimension that read inside the image through a tap. */
typedef struct {
    int32_t from, count;
} range;

static inline range inside(int32_t offset, int32_t stride, int32_t in_size, int32_t out_size)
{
    const int32_t from = offset < 0 ? (-offset + stride - 1) / stride : 0;
    const int32_t to = lfwd_least(in_size > offset ? (in_size - offset + stride - 1) / stride : 0, out_size);
    const range r = {from, to > from ? to - from : 0};
    return r;
}

/* The runs of elements that are multiplied: rows of the two planes, for every sample. Gaps lead from the end of one run to the next. */
typedef struct {
    int32_t batch, rows, columns, step;
    int32_t grad_gap, grad_jump, x_gap, x_jump;
} runs;

/* Where the sums of a block go: state -= lr * sum, one channel `step` from the next, one output `row` from the next. */
typedef struct {
    float *state, lr;
    int32_t row, step;
} target;

static void update(const target *t, int32_t high, int32_t wide, const float sums[16])
{
    for (int32_t i = 0; i < high; i++)
        for (int32_t j = 0; j < wide; j++) t->state[i * t->row + j * t->step] -= t->lr * sums[4 * i + j];
}

#define UPDATE_ROW(to, s0, s1, s2, s3) \
    *to -= lr * s0, to += step, *to -= lr * s1, to += step, *to -= lr * s2, to += step, *to -= lr * s3, to -= 3 * step;
#define KEEP_ROW(to, s0, s1, s2, s3) (to)[0] = s0, (to)[1] = s1, (to)[2] = s2, (to)[3] = s3;

/* Four outputs by four channels, of which `high` by `wide` are wanted. */
static LFWD_APART void block(const float *g0, int32_t plane, int32_t high, const float *x0, int32_t image, int32_t wide, const runs *r,
                             const target *t)
{
    LFWD_THREE_MORE(g, plane, high)
    LFWD_THREE_MORE(x, image, wide)
    float sums[16];
#if LFWD_HELIUM_FLOAT
    /* One element of four channels is one gathered vector. */
    const uint32_t offsets[4] = {0, (uint32_t)(x1 - x0), (uint32_t)(x2 - x0), (uint32_t)(x3 - x0)};
    const uint32x4_t channels = vld1q_u32(offsets);
    float32x4_t s0 = vdupq_n_f32(0.0f), s1 = s0, s2 = s0, s3 = s0;
    for (int32_t n = r->batch; n != 0; n--) {
        for (int32_t i = r->rows; i != 0; i--) {
            for (int32_t k = r->columns, step = r->step; k > 0; k--, x0 += step) {
                const float32x4_t v = vldrwq_gather_shifted_offset_f32(x0, channels);
                s0 = vfmaq_n_f32(s0, v, *g0++);
                s1 = vfmaq_n_f32(s1, v, *g1++);
                s2 = vfmaq_n_f32(s2, v, *g2++);
                s3 = vfmaq_n_f32(s3, v, *g3++);
            }
            g0 += r->grad_gap, g1 += r->grad_gap, g2 += r->grad_gap, g3 += r->grad_gap, x0 += r->x_gap;
        }
        g0 += r->grad_jump, g1 += r->grad_jump, g2 += r->grad_jump, g3 += r->grad_jump, x0 += r->x_jump;
    }
    vst1q_f32(sums, s0);
    vst1q_f32(sums + 4, s1);
    vst1q_f32(sums + 8, s2);
    vst1q_f32(sums + 12, s3);
    if (wide < 4) {
        update(t, high, wide, sums);
        return;
    }
    const uint32x4_t steps = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)t->step);
    float *to = t->state;
    for (int32_t i = 0; i < high; i++, to += t->row) {
        const float32x4_t old = vldrwq_gather_shifted_offset_f32(to, steps);
        vstrwq_scatter_shifted_offset_f32(to, steps, vfmaq_n_f32(old, vld1q_f32(sums + 4 * i), -t->lr));
    }
#else
    LFWD_SUMS(0.0f, 0.0f, 0.0f, 0.0f)
    for (int32_t n = r->batch; n != 0; n--) {
        for (int32_t i = r->rows; i != 0; i--) {
            if (r->step == 1) {
                for (int32_t k = r->columns >> 1; k != 0; k--) {
                    LFWD_OPAQUE(k);
                    LFWD_TWO_STEPS_OF_PAIRS(g0, g1, g2, g3, x0, x1, x2, x3);
                }
                if (r->columns & 1) LFWD_STEP(*g0++, *g1++, *g2++, *g3++, *x0++, *x1++, *x2++, *x3++);
            } else if (r->step == 2) {
                for (int32_t k = r->columns >> 1; k != 0; k--, x0 += 4, x1 += 4, x2 += 4, x3 += 4) {
                    LFWD_OPAQUE(k);
                    LFWD_LOADED;
                    y0 = x0[0], y1 = x0[2], y2 = x1[0], y3 = x1[2], y4 = x2[0], y5 = x2[2], y6 = x3[0], y7 = x3[2];
                    LFWD_TWO_OF_PAIRS(0, g0) LFWD_TWO_OF_PAIRS(1, g1) LFWD_TWO_OF_PAIRS(2, g2) LFWD_TWO_OF_PAIRS(3, g3)
                }
                if (r->columns & 1) {
                    LFWD_STEP(*g0++, *g1++, *g2++, *g3++, *x0, *x1, *x2, *x3);
                    x0 += 2, x1 += 2, x2 += 2, x3 += 2;
                }
            } else
                for (int32_t k = r->columns, step = r->step; k != 0; k--, x0 += step, x1 += step, x2 += step, x3 += step) {
                    LFWD_OPAQUE(k);
                    LFWD_STEP(*g0++, *g1++, *g2++, *g3++, *x0, *x1, *x2, *x3);
                }
            g0 += r->grad_gap, g1 += r->grad_gap, g2 += r->grad_gap, g3 += r->grad_gap;
            x0 += r->x_gap, x1 += r->x_gap, x2 += r->x_gap, x3 += r->x_gap;
        }
        g0 += r->grad_jump, g1 += r->grad_jump, g2 += r->grad_jump, g3 += r->grad_jump;
        x0 += r->x_jump, x1 += r->x_jump, x2 += r->x_jump, x3 += r->x_jump;
    }
    if (high == 4 && wide == 4) {
        float *to = t->state;
        const float lr = t->lr;
        const int32_t step = t->step;
        if (step == 1) {
            LFWD_UPDATE_ROWS(to, t->row, lr);
        } else {
            LFWD_ROWS(UPDATE_ROW, to, t->row)
        }
    } else {
        float *to = sums;
        LFWD_ROWS(KEEP_ROW, to, 4)
        update(t, high, wide, sums);
    }
#endif
}

/* Four outputs by one channel. */
static LFWD_APART void column(const float *g0, int32_t plane, int32_t high, const float *x, const runs *r, const target *t)
{
    LFWD_THREE_MORE(g, plane, high)
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    for (int32_t n = r->batch; n != 0; n--) {
        for (int32_t i = r->rows; i != 0; i--) {
            for (int32_t k = r->columns, step = r->step; k != 0; k--, x += step) {
                LFWD_OPAQUE(k);
                const float v = *x;
                s0 += v * *g0++;
                s1 += v * *g1++;
                s2 += v * *g2++;
                s3 += v * *g3++;
            }
            g0 += r->grad_gap, g1 += r->grad_gap, g2 += r->grad_gap, g3 += r->grad_gap, x += r->x_gap;
        }
        g0 += r->grad_jump, g1 += r->grad_jump, g2 += r->grad_jump, g3 += r->grad_jump, x += r->x_jump;
    }
    const float sums[4] = {s0, s1, s2, s3};
    for (int32_t i = 0; i < high; i++) t->state[i * t->row] -= t->lr * sums[i];
}

/* The same where the gradient is a single pixel: two outputs take a multiple of the channels' pixels under the tap. */
static void one_tap_of_a_pixel(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr)
{
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups, taps = s->kernel_h * s->kernel_w, image = s->in_h * s->in_w;
    for (int32_t o = 0; o < outputs; o += 2, state += 2 * channels * taps) {
        const float even = -lr * grad[o], odd = o + 1 < outputs ? -lr * grad[o + 1] : 0.0f;
        float *to = state, *next = o + 1 < outputs ? state + channels * taps : state;
        const float *from = x;
        for (int32_t c = channels; c != 0; c--, from += image, to += taps, next += taps) {
            LFWD_OPAQUE(c);
            const float v = *from;
            *to += even * v;
            *next += odd * v;
        }
    }
}

/* All outputs and channels of one group through one tap; state points at the tap of its first weight. */
static void one_tap(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, const runs *r, float lr)
{
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups, taps = s->kernel_h * s->kernel_w;
    const int32_t plane = s->out_h * s->out_w, image = s->in_h * s->in_w;
    for (int32_t o = 0; o < outputs; o += 4) {
        const int32_t high = lfwd_least(outputs - o, 4);
        target t = {state + o * channels * taps, lr, channels * taps, taps};
        for (int32_t c = 0; c < channels;) {
            const int32_t left = channels - c, wide = left >= 3 ? lfwd_least(left, 4) : 1;
            if (wide == 1)
                column(grad + o * plane, plane, high, x + c * image, r, &t);
            else
                block(grad + o * plane, plane, high, x + c * image, image, wide, r, &t);
            c += wide, t.state += wide * taps;
        }
    }
}

void lfwd_sgd_conv2d_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr, float decay,
                         float *scratch)
{
    if (scratch && lfwd_is_depthwise(s)) { /* the exporter gives one where lfwd_sgd_conv2d_scratch asks for it */
        lfwd_sgd_depthwise_f32(state, grad, x, s, lr, decay, scratch);
        return;
    }
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups, taps = s->kernel_h * s->kernel_w;
    const int32_t plane = s->out_h * s->out_w, image = s->in_h * s->in_w;
    if (lfwd_is_linear(s)) {
        lfwd_sgd_outer_f32(state, grad, x, s->batch, outputs, channels, lr, decay);
        return;
    }
    if (decay != 1.0f)
        for (int32_t i = 0; i < s->out_c * channels * taps; i++) state[i] *= decay;
    if (scratch && lfwd_is_update_by_windows(s)) {
        lfwd_sgd_conv2d_windows_f32(state, grad, x, s, lr, scratch);
        return;
    }
    for (int32_t t = 0; t < taps; t++) {
        const int32_t top = t / s->kernel_w * s->dilation_h - s->pad_h, left = t % s->kernel_w * s->dilation_w - s->pad_w;
        range rows = inside(top, s->stride_h, s->in_h, s->out_h), columns = inside(left, s->stride_w, s->in_w, s->out_w);
        if (rows.count == 0 || columns.count == 0) continue;
        const float *g = grad + rows.from * s->out_w + columns.from;
        const float *from = x + (rows.from * s->stride_h + top) * s->in_w + columns.from * s->stride_w + left;
        if (lfwd_is_pointwise(s)) columns.count = plane, rows.count = 1;
        const int32_t g_row = lfwd_is_pointwise(s) ? plane : s->out_w, x_row = lfwd_is_pointwise(s) ? image : s->in_w * s->stride_h;
        const runs r = {s->batch, rows.count, columns.count, s->stride_w,
                        g_row - columns.count, s->out_c * plane - rows.count * g_row,
                        x_row - columns.count * s->stride_w, s->in_c * image - rows.count * x_row};
        for (int32_t i = 0; i < (plane == 1 ? s->groups : 0); i++)
            for (int32_t n = 0; n < s->batch; n++)
                one_tap_of_a_pixel(state + i * outputs * channels * taps + t, g + i * outputs + n * s->out_c,
                                   from + (i * channels + n * s->in_c) * image, s, lr);
        for (int32_t i = 0; i < (plane == 1 ? 0 : s->groups); i++)
            one_tap(state + i * outputs * channels * taps + t, g + i * outputs * plane, from + i * channels * image, s, &r, lr);
    }
}

int32_t lfwd_sgd_conv2d_scratch(const lfwd_conv2d_shape *s)
{
    if (lfwd_is_depthwise(s)) return lfwd_depthwise_scratch(s);
    return lfwd_is_update_by_windows(s) ? s->in_c / s->groups * s->kernel_h * s->kernel_w * 4 : 0;
}

void lfwd_conv2d_grad_weight_f32(const float *grad, const float *x, const lfwd_conv2d_shape *s, float *scratch, float *out)
{
    memset(out, 0, (size_t)(s->out_c * (s->in_c / s->groups) * s->kernel_h * s->kernel_w) * sizeof *out);
    lfwd_sgd_conv2d_f32(out, grad, x, s, -1.0f, 1.0f, scratch);
}
