/* Gradient of the float convolution to its input. Stride 1: a convolution of the output's gradient with the taps turned round.
 * Other strides: what each output position hands back is one matrix product, added up where its window lies. */
#include <string.h>

#include "lfwd_conv_f32.h"
#include "lfwd_products.h"

int32_t lfwd_conv2d_grad_input_scratch(const lfwd_conv2d_shape *s)
{
    if (lfwd_is_depthwise_turned(s)) return lfwd_depthwise_grad_input_scratch(s);
    const int32_t unit = s->stride_h == 1 && s->stride_w == 1;
    return unit && !lfwd_is_pointwise(s) ? s->out_c / s->groups * s->kernel_h * s->kernel_w * 4 : 0;
}

/* One group of one sample, stride 1: the windows of an input pixel run backwards through the output. */
static void turned_round(const float *grad, const float *weight, const lfwd_conv2d_shape *s, const lfwd_met_taps *met, float *scratch,
                         float *out)
{
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups, taps = s->kernel_h * s->kernel_w;
    const int32_t pixels = s->in_h * s->in_w, pad_h = met->shape.pad_h, pad_w = met->shape.pad_w;
    lfwd_product p = {weight + met->first, channels, taps, outputs, met->inner, channels * taps - met->inner, grad, pixels, pixels, 0, out, pixels};
    if (lfwd_is_pointwise(&met->shape) && pixels == s->out_h * s->out_w) {
        lfwd_product_f32(&p);
        return;
    }
    lfwd_windows at = {s->out_h, s->out_w, met->shape.kernel_h, met->shape.kernel_w, -s->dilation_h, -s->dilation_w, 0, {0}, {0}};
    int32_t y = pad_h, x = pad_w;
    p.b = scratch, p.b_row = 4;
    for (int32_t i = 0; i < pixels; i += 4, p.out += 4) {
        p.n = at.count = lfwd_least(pixels - i, 4);
        for (int32_t j = 0; j < at.count; j++) {
            at.y[j] = y, at.x[j] = x;
            if (++x == s->in_w + pad_w) x = pad_w, y++;
        }
        lfwd_gather_columns_f32(grad, outputs, &at, scratch);
        lfwd_product_f32(&p);
    }
}

/* A kernel of one pixel without padding hands every output position's gradient to one pixel, and nothing to those between. */
static inline int32_t is_sampled(const lfwd_conv2d_shape *s)
{
    return s->kernel_h * s->kernel_w == 1 && s->pad_h == 0 && s->pad_w == 0;
}

/* Spreads the first `wide` values of a row `step` apart, zeros between them, the last one first. */
static void spread(float *row, int32_t in_w, int32_t wide, int32_t step)
{
    const int32_t room = in_w >= 2 * wide ? wide : wide - 1; /* values that have a zero behind them */
    const int32_t whole = step == 2 ? room & ~3 : 0;
    int32_t x = wide;
    for (; x > whole && x > 1; x--) {
        float *to = row + (x - 1) * step;
        *to = row[x - 1];
        for (int32_t gap = step - 1; gap != 0; gap--) {
            LFWD_OPAQUE(gap); /* else GCC calls memset for a number or two */
            to[-gap] = 0.0f;
        }
    }
    for (; x >= 4; x -= 4) {
        const float *from = row + x - 4;
        float *to = row + 2 * (x - 4);
#if LFWD_HELIUM_FLOAT
        float32x4x2_t pairs;
        pairs.val[0] = vld1q_f32(from);
        pairs.val[1] = vdupq_n_f32(0.0f);
        vst2q_f32(to, pairs);
#else
        const float a = from[0], b = from[1], c = from[2], d = from[3];
        to[0] = a, to[1] = 0.0f, to[2] = b, to[3] = 0.0f, to[4] = c, to[5] = 0.0f, to[6] = d, to[7] = 0.0f;
#endif
    }
}

/* One group of one sample of it, row by row: the products lie side by side at first. */
static void sampled(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *out)
{
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups, image = s->in_h * s->in_w, wide = s->out_w;
    for (int32_t y = 0; y < s->out_h; y++, grad += wide, out += s->stride_h * s->in_w) {
        const lfwd_product p = {weight, channels, channels, 1, outputs, 0, grad, wide, s->out_h * wide, 0, out, image};
        lfwd_product_transposed_f32(&p);
        for (int32_t c = 0; c < channels && s->stride_w > 1; c++) spread(out + c * image, s->in_w, wide, s->stride_w);
    }
}

enum { ROWS = 16 }; /* of the product that are computed before they are added */
enum { MOST_TAPS = 32 };

/* Up to four output positions: the row and column where their windows begin, and the same as an offset into the plane; for every tap of a
 * small kernel, bit j says whether position j meets it inside the image. */
typedef struct {
    int32_t count, y[4], x[4], offset[4];
    uint8_t met[MOST_TAPS];
} positions;

static uint32_t is_met(const lfwd_conv2d_shape *s, const positions *p, int32_t tap)
{
    const int32_t down = tap / s->kernel_w * s->dilation_h, right = tap % s->kernel_w * s->dilation_w;
    uint32_t bits = 0;
    for (int32_t j = 0; j < p->count; j++)
        bits |= (uint32_t)((uint32_t)(p->y[j] + down) < (uint32_t)s->in_h && (uint32_t)(p->x[j] + right) < (uint32_t)s->in_w) << j;
    return bits;
}

static void next_positions(const lfwd_conv2d_shape *s, int32_t from, positions *p)
{
    int32_t y = from / s->out_w, x = from % s->out_w, inside = 1;
    p->count = lfwd_least(s->out_h * s->out_w - from, 4);
    for (int32_t j = 0; j < p->count; j++) {
        p->y[j] = y * s->stride_h - s->pad_h;
        p->x[j] = x * s->stride_w - s->pad_w;
        if (++x == s->out_w) x = 0, y++;
        p->offset[j] = p->y[j] * s->in_w + p->x[j];
        inside &= p->y[j] >= 0 && p->y[j] + (s->kernel_h - 1) * s->dilation_h < s->in_h && p->x[j] >= 0 &&
                  p->x[j] + (s->kernel_w - 1) * s->dilation_w < s->in_w;
    }
    for (int32_t t = 0; t < lfwd_least(s->kernel_h * s->kernel_w, MOST_TAPS); t++)
        p->met[t] = (uint8_t)(inside ? (1u << p->count) - 1 : is_met(s, p, t));
}

/* A tap of the window, walked in the order of the weights: channel, row, column; `to` is where it lies for a window at the plane's origin. */
typedef struct {
    float *to;
    int32_t tap, column;
} walk;

/* Adds `rows` times the sums of four positions where their windows lie. What is read again and again is copied: a store of a float may
 * change anything else, for all that the compiler knows. */
static void add_sums(const lfwd_conv2d_shape *s, const positions *at, const float *sum, int32_t rows, walk *walked)
{
    const int32_t o0 = at->offset[0], o1 = at->offset[1], o2 = at->offset[2], o3 = at->offset[3];
    const int32_t kernel_w = s->kernel_w, taps = s->kernel_h * kernel_w, known = taps <= MOST_TAPS;
    const int32_t step = s->dilation_w, line = s->dilation_h * s->in_w - kernel_w * step;
    const int32_t next = s->in_h * s->in_w - s->kernel_h * s->dilation_h * s->in_w;
    walk w = *walked;
#if LFWD_HELIUM_FLOAT
    const uint32x4_t offsets = vreinterpretq_u32_s32(vld1q_s32(at->offset));
#endif
    for (; rows > 0; rows--, sum += 4) {
        const uint32_t met = known ? at->met[w.tap] : is_met(s, at, w.tap);
        float *const to = w.to;
        if (met == 15) {
#if LFWD_HELIUM_FLOAT
            const float32x4_t old = vldrwq_gather_shifted_offset_f32(to, offsets);
            vstrwq_scatter_shifted_offset_f32(to, offsets, vaddq_f32(old, vld1q_f32(sum)));
#else
            LFWD_LOADED;
            LFWD_LOW4(sum);
            to[o0] += y0, to[o1] += y1, to[o2] += y2, to[o3] += y3;
            (void)y4, (void)y5, (void)y6, (void)y7, (void)u0, (void)u1;
#endif
        } else {
            if (met & 1) to[o0] += sum[0];
            if (met & 2) to[o1] += sum[1];
            if (met & 4) to[o2] += sum[2];
            if (met & 8) to[o3] += sum[3];
        }
        w.to += step, w.tap++;
        if (++w.column < kernel_w) continue;
        w.column = 0, w.to += line;
        if (w.tap < taps) continue;
        w.tap = 0, w.to += next;
    }
    *walked = w;
}

/* One group of one sample, any stride. Rows of the product are (channel, ky, kx). */
static void scattered(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *out)
{
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups, taps = s->kernel_h * s->kernel_w;
    const int32_t pixels = s->out_h * s->out_w, rows = channels * taps;
    float sums[4 * ROWS];
    positions at = {0};
    for (int32_t i = 0; i < pixels; i += 4) {
        next_positions(s, i, &at);
        walk t = {out, 0, 0};
        for (int32_t r = 0; r < rows; r += ROWS) {
            const int32_t some = lfwd_least(rows - r, ROWS);
            const lfwd_product p = {weight + r, some, rows, 1, outputs, 0, grad + i, at.count, pixels, 0, sums, 4};
            lfwd_product_transposed_f32(&p);
            add_sums(s, &at, sums, some, &t);
        }
    }
}

void lfwd_conv2d_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *scratch, float *out)
{
    if (lfwd_is_depthwise_turned(s)) {
        lfwd_depthwise_grad_input_f32(grad, weight, s, scratch, out);
        return;
    }
    if (lfwd_is_linear(s)) {
        lfwd_mm_f32(grad, weight, s->batch, s->out_c, s->in_c, out);
        return;
    }
    const lfwd_met_taps met = lfwd_find_met_taps(s);
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups;
    const int32_t pixels = s->out_h * s->out_w, image = s->in_h * s->in_w, taps = s->kernel_h * s->kernel_w;
    const int32_t unit = s->stride_h == 1 && s->stride_w == 1;
    if (!unit) memset(out, 0, (size_t)(s->batch * s->in_c * image) * sizeof *out);
    for (int32_t n = 0; n < s->batch; n++)
        for (int32_t g = 0; g < s->groups; g++, grad += outputs * pixels, out += channels * image) {
            const float *w = weight + g * outputs * channels * taps;
            if (lfwd_is_pointwise(s)) {
                const lfwd_product p = {w, channels, channels, 1, outputs, 0, grad, pixels, pixels, 0, out, image};
                lfwd_product_transposed_f32(&p);
            } else if (unit) {
                turned_round(grad, w, s, &met, scratch, out);
            } else if (is_sampled(s)) {
                sampled(grad, w, s, out);
            } else {
                scattered(grad, w, s, out);
            }
        }
}
