/* Float depthwise convolution and its gradients: one channel at a time from a copy of its plane with zeros around it, so that no
 * tap needs a test. */
#include <string.h>

#include "lfwd_conv_f32.h"

/* A plane (h, w) into the middle of one of rows (height, width), whose margin is zero; what does not fit below and right is left out. */
static void place(const float *in, int32_t h, int32_t w, int32_t top, int32_t left, int32_t height, int32_t width, float *out)
{
    const int32_t rows = lfwd_least(h, height - top), columns = lfwd_least(w, width - left), whole = columns & ~3;
    out += top * width + left;
    for (int32_t y = rows; y > 0; y--, in += w, out += width) {
        for (int32_t x = 0; x < whole; x += 4) *(lfwd_four *)(out + x) = *(const lfwd_four *)(in + x);
        for (int32_t x = whole; x < columns; x++) out[x] = in[x];
    }
}

/* out = start + taps over an image without edges. Positions step by `down` and `right` in the image, by out_row and out_step in
 * the output; taps by tap_row and tap_step in the image, by w_row and w_step in the weights. */
typedef struct {
    const float *image, *w;
    int32_t down, right, kernel_h, kernel_w, tap_row, tap_step, w_row, w_step;
    int32_t rows, columns, out_row, out_step;
    float start;
} correlation;

/* Where four sums go; fewer than four columns: only so many. */
static LFWD_INLINE void put(float *to, int32_t step, int32_t columns, float s0, float s1, float s2, float s3)
{
    if (columns >= 4) {
        to[0] = s0, to[step] = s1, to[2 * step] = s2, to[3 * step] = s3;
        return;
    }
    to[0] = s0;
    if (columns > 1) to[step] = s1;
    if (columns > 2) to[2 * step] = s2;
}

/* Four columns at a time (the last four overlap those before; beyond fewer than four the sums are thrown away), `taps` neighbouring
 * taps in a row, at most three; columns neighbours (`step` 1) or not (0). Both are constants where this is called. */
static LFWD_INLINE void plane(const correlation *c, float *out, const int32_t taps, const int32_t step)
{
    const int32_t columns = c->columns, right = step ? step : c->right, tap_row = c->tap_row, w_row = c->w_row;
    const int32_t second = taps > 1 ? c->w_step : 0, third = taps > 2 ? 2 * c->w_step : 0;
    const float start = c->start, *row = c->image;
#if LFWD_HELIUM_FLOAT
    const uint32x4_t offsets = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)right);
#endif
    for (int32_t y = c->rows; y != 0; y--, row += c->down, out += c->out_row) {
        const float *from = row;
        float *to = out;
        for (int32_t left = columns; left > 0;) {
            const float *p = from, *w = c->w;
#if LFWD_HELIUM_FLOAT
            float32x4_t sum = vdupq_n_f32(start);
            for (int32_t ky = c->kernel_h; ky > 0; ky--, p += tap_row, w += w_row) {
                sum = vfmaq_n_f32(sum, step == 1 ? vld1q_f32(p) : vldrwq_gather_shifted_offset_f32(p, offsets), w[0]);
                if (taps > 1) sum = vfmaq_n_f32(sum, step == 1 ? vld1q_f32(p + 1) : vldrwq_gather_shifted_offset_f32(p + 1, offsets), w[second]);
                if (taps > 2) sum = vfmaq_n_f32(sum, step == 1 ? vld1q_f32(p + 2) : vldrwq_gather_shifted_offset_f32(p + 2, offsets), w[third]);
            }
            if (columns >= 4 && c->out_step == 1)
                vst1q_f32(to, sum);
            else
                put(to, c->out_step, columns, vgetq_lane_f32(sum, 0), vgetq_lane_f32(sum, 1), vgetq_lane_f32(sum, 2), vgetq_lane_f32(sum, 3));
#else
            const float *q = p + right, *r = q + right, *s = r + right;
            float s0 = start, s1 = s0, s2 = s0, s3 = s0;
            for (int32_t ky = c->kernel_h; ky != 0; ky--, w += w_row) {
                LFWD_OPAQUE(ky);
                LFWD_LOADED;
                const float a = w[0], b = w[second], d = w[third];
                if (step == 1) {
                    if (taps == 3)
                        LFWD_LOW6(p);
                    else
                        LFWD_LOW4(p);
                    if (taps == 2) y4 = p[4];
                    s0 += a * y0, s1 += a * y1, s2 += a * y2, s3 += a * y3;
                    if (taps > 1) s0 += b * y1, s1 += b * y2, s2 += b * y3, s3 += b * y4;
                    if (taps > 2) s0 += d * y2, s1 += d * y3, s2 += d * y4, s3 += d * y5;
                } else {
                    s0 += a * p[0], s1 += a * q[0], s2 += a * r[0], s3 += a * s[0];
                    if (taps > 1) s0 += b * p[1], s1 += b * q[1], s2 += b * r[1], s3 += b * s[1];
                    if (taps > 2) s0 += d * p[2], s1 += d * q[2], s2 += d * r[2], s3 += d * s[2];
                    q += tap_row, r += tap_row, s += tap_row;
                }
                (void)y6, (void)y7, (void)u0, (void)u1;
                p += tap_row;
            }
            put(to, c->out_step, columns, s0, s1, s2, s3);
#endif
            left -= 4;
            const int32_t on = lfwd_least(left, 4);
            from += on * right, to += on * c->out_step;
        }
    }
}

#if !LFWD_HELIUM_FLOAT
/* The four sums of one kernel row whose weights are a, b, d; `taps` and `step` as above. */
#define ROW_OF_TAPS(p, a, b, d)                                                                \
    do {                                                                                       \
        LFWD_LOADED;                                                                           \
        if (step == 1) {                                                                       \
            if (taps == 3)                                                                     \
                LFWD_LOW6(p);                                                                  \
            else                                                                               \
                LFWD_LOW4(p);                                                                  \
            if (taps == 2) y4 = (p)[4];                                                        \
            s0 += a * y0, s1 += a * y1, s2 += a * y2, s3 += a * y3;                            \
            if (taps > 1) s0 += b * y1, s1 += b * y2, s2 += b * y3, s3 += b * y4;              \
            if (taps > 2) s0 += d * y2, s1 += d * y3, s2 += d * y4, s3 += d * y5;              \
        } else {                                                                               \
            LFWD_LOW8(p);                                                                      \
            s0 += a * y0, s1 += a * y2, s2 += a * y4, s3 += a * y6;                            \
            s0 += b * y1, s1 += b * y3, s2 += b * y5, s3 += b * y7;                            \
            s0 += d * y2, s1 += d * y4, s2 += d * y6, s3 += d * (p)[8];                        \
        }                                                                                      \
        (void)y4, (void)y5, (void)y6, (void)y7, (void)u0, (void)u1;                            \
    } while (0)

/* A filter of `high` by `taps`, at most three by three, constants where this is called, as `step` is, 1 or 2: its weights stay in
 * registers. */
static LFWD_INLINE void small_plane(const correlation *c, float *out, const int32_t high, const int32_t taps, const int32_t step)
{
    const int32_t columns = c->columns, tap_row = c->tap_row, out_step = c->out_step;
    const int32_t second = taps > 1 ? c->w_step : 0, third = taps > 2 ? 2 * c->w_step : 0;
    const float *const w0 = c->w, *const w1 = w0 + (high > 1 ? c->w_row : 0), *const w2 = w1 + (high > 2 ? c->w_row : 0);
    const float a0 = w0[0], b0 = w0[second], d0 = w0[third], a1 = w1[0], b1 = w1[second], d1 = w1[third];
    const float a2 = w2[0], b2 = w2[second], d2 = w2[third], start = c->start, *row = c->image;
    for (int32_t y = c->rows; y != 0; y--, row += c->down, out += c->out_row) {
        const float *from = row;
        float *to = out;
        for (int32_t left = columns; left > 0;) {
            const float *p = from;
            float s0 = start, s1 = s0, s2 = s0, s3 = s0;
            ROW_OF_TAPS(p, a0, b0, d0);
            if (high > 1) {
                p += tap_row;
                ROW_OF_TAPS(p, a1, b1, d1);
            }
            if (high > 2) {
                p += tap_row;
                ROW_OF_TAPS(p, a2, b2, d2);
            }
            put(to, out_step, columns, s0, s1, s2, s3);
            left -= 4;
            const int32_t on = lfwd_least(left, 4);
            from += on * step, to += on * out_step;
        }
    }
}

static LFWD_APART void plane_3x3(const correlation *c, float *out) { small_plane(c, out, 3, 3, 1); }
static LFWD_APART void plane_3x3_at_2(const correlation *c, float *out) { small_plane(c, out, 3, 3, 2); }
static LFWD_APART void plane_2x2(const correlation *c, float *out) { small_plane(c, out, 2, 2, 1); }
static LFWD_APART void plane_2x1(const correlation *c, float *out) { small_plane(c, out, 2, 1, 1); }
static LFWD_APART void plane_1x2(const correlation *c, float *out) { small_plane(c, out, 1, 2, 1); }
static LFWD_APART void plane_1x1(const correlation *c, float *out) { small_plane(c, out, 1, 1, 1); }

/* The function for a filter of up to three by three, null for another. */
static void (*small(const correlation *c))(const correlation *, float *)
{
    if (c->kernel_w > 1 && c->tap_step != 1) return 0;
    if (c->kernel_h == 3 && c->kernel_w == 3) return c->right == 1 ? plane_3x3 : c->right == 2 ? plane_3x3_at_2 : 0;
    if (c->right != 1) return 0;
    if (c->kernel_h == 2 && c->kernel_w == 2) return plane_2x2;
    if (c->kernel_h == 2 && c->kernel_w == 1) return plane_2x1;
    if (c->kernel_h == 1 && c->kernel_w == 2) return plane_1x2;
    return c->kernel_h == 1 && c->kernel_w == 1 ? plane_1x1 : 0;
}
#endif

/* Taps that are more than three or not neighbours, one position after the other. */
static void any_plane(const correlation *c, float *out)
{
    for (int32_t y = 0; y < c->rows; y++)
        for (int32_t x = 0; x < c->columns; x++) {
            const float *p = c->image + y * c->down + x * c->right, *w = c->w;
            float sum = c->start;
            for (int32_t ky = c->kernel_h; ky > 0; ky--, p += c->tap_row, w += c->w_row)
                for (int32_t kx = 0; kx < c->kernel_w; kx++) sum += w[kx * c->w_step] * p[kx * c->tap_step];
            out[y * c->out_row + x * c->out_step] = sum;
        }
}

static LFWD_APART void plane_of_3(const correlation *c, float *out) { plane(c, out, 3, 1); }
static LFWD_APART void plane_of_3_apart(const correlation *c, float *out) { plane(c, out, 3, 0); }
static LFWD_APART void plane_of_2(const correlation *c, float *out) { plane(c, out, 2, 1); }
static LFWD_APART void plane_of_1(const correlation *c, float *out) { plane(c, out, 1, 1); }

static void correlate(const correlation *c, float *out)
{
#if !LFWD_HELIUM_FLOAT
    void (*const run)(const correlation *, float *) = small(c);
    if (run) {
        run(c, out);
        return;
    }
#endif
    if (c->kernel_w == 3 && c->tap_step == 1)
        c->right == 1 ? plane_of_3(c, out) : plane_of_3_apart(c, out);
    else if (c->kernel_w == 2 && c->tap_step == 1 && c->right == 1)
        plane_of_2(c, out);
    else if (c->kernel_w == 1 && c->right == 1)
        plane_of_1(c, out);
    else
        any_plane(c, out);
}

/* Rows (or columns) of the padded plane that `out` windows reach. */
static inline int32_t reach(int32_t out, int32_t stride, int32_t kernel, int32_t dilation)
{
    return (out - 1) * stride + (kernel - 1) * dilation + 1;
}

int32_t lfwd_depthwise_scratch(const lfwd_conv2d_shape *s)
{
    const int32_t beyond = 3 * s->stride_w; /* read, not used, where fewer than four columns are left */
    return reach(s->out_h, s->stride_h, s->kernel_h, s->dilation_h) * reach(s->out_w, s->stride_w, s->kernel_w, s->dilation_w) + beyond;
}

void lfwd_depthwise_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *scratch,
                        float *out)
{
    const int32_t taps = s->kernel_h * s->kernel_w;
    const int32_t height = reach(s->out_h, s->stride_h, s->kernel_h, s->dilation_h);
    const int32_t width = reach(s->out_w, s->stride_w, s->kernel_w, s->dilation_w);
    correlation c = {scratch, weight, s->stride_h * width, s->stride_w, s->kernel_h, s->kernel_w, s->dilation_h * width, s->dilation_w,
                     s->kernel_w, 1, s->out_h, s->out_w, s->out_w, 1, 0.0f};
    memset(scratch, 0, (size_t)lfwd_depthwise_scratch(s) * sizeof *scratch);
    for (int32_t i = 0; i < s->batch * s->in_c; i++, x += s->in_h * s->in_w, out += s->out_h * s->out_w) {
        place(x, s->in_h, s->in_w, s->pad_h, s->pad_w, height, width, scratch);
        c.w = weight + i % s->in_c * taps;
        c.start = bias ? bias[i % s->in_c] : 0.0f;
        correlate(&c, out);
    }
}

/* One dimension of the gradient to the input. Input positions `first`, `first` + stride, ... all meet the same taps, every stride-th
 * from `residue` on, the last of them first; in the padded output the first tap of the first position lies at `start`. */
typedef struct {
    int32_t first, count, taps, last_tap, start;
} side;

/* Zeros before and after the gradient's plane, and its length with them. Dilated taps come with stride 1 only. */
static inline int32_t before(int32_t stride, int32_t kernel, int32_t dilation)
{
    return stride == 1 ? (kernel - 1) * dilation : (kernel - 1) / stride;
}

static inline int32_t length(int32_t in, int32_t out, int32_t stride, int32_t kernel, int32_t dilation, int32_t pad)
{
    const int32_t last = (in - 1 + pad) / stride;
    return before(stride, kernel, dilation) + (last + 1 > out ? last + 1 : out);
}

static side side_of(int32_t residue, int32_t in, int32_t stride, int32_t kernel, int32_t dilation, int32_t pad)
{
    side d;
    d.first = ((residue - pad) % stride + stride) % stride;
    d.count = in > d.first ? (in - d.first + stride - 1) / stride : 0;
    d.taps = kernel > residue ? (kernel - residue + stride - 1) / stride : 0;
    d.last_tap = residue + (d.taps - 1) * stride;
    d.start = (d.first + pad) / stride + before(stride, kernel, dilation) - (d.taps - 1) * (stride == 1 ? dilation : 1);
    return d;
}

int32_t lfwd_depthwise_grad_input_scratch(const lfwd_conv2d_shape *s)
{
    return length(s->in_h, s->out_h, s->stride_h, s->kernel_h, s->dilation_h, s->pad_h) *
               length(s->in_w, s->out_w, s->stride_w, s->kernel_w, s->dilation_w, s->pad_w) +
           3;
}

void lfwd_depthwise_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *scratch, float *out)
{
    const int32_t taps = s->kernel_h * s->kernel_w;
    const int32_t top = before(s->stride_h, s->kernel_h, s->dilation_h), left = before(s->stride_w, s->kernel_w, s->dilation_w);
    const int32_t height = length(s->in_h, s->out_h, s->stride_h, s->kernel_h, s->dilation_h, s->pad_h);
    const int32_t width = length(s->in_w, s->out_w, s->stride_w, s->kernel_w, s->dilation_w, s->pad_w);
    side down[LFWD_MOST_RESIDUES] = {{0}}, across[LFWD_MOST_RESIDUES] = {{0}};
    for (int32_t r = 0; r < s->stride_h; r++) down[r] = side_of(r, s->in_h, s->stride_h, s->kernel_h, s->dilation_h, s->pad_h);
    for (int32_t r = 0; r < s->stride_w; r++) across[r] = side_of(r, s->in_w, s->stride_w, s->kernel_w, s->dilation_w, s->pad_w);
    memset(scratch, 0, (size_t)lfwd_depthwise_grad_input_scratch(s) * sizeof *scratch);
    for (int32_t i = 0; i < s->batch * s->in_c; i++, grad += s->out_h * s->out_w, out += s->in_h * s->in_w) {
        const float *w = weight + i % s->in_c * taps;
        place(grad, s->out_h, s->out_w, top, left, height, width, scratch);
        for (int32_t ry = 0; ry < s->stride_h; ry++)
            for (int32_t rx = 0; rx < s->stride_w; rx++) {
                const side y = down[ry], x = across[rx];
                if (y.count == 0 || x.count == 0) continue;
                const correlation c = {scratch + y.start * width + x.start, w + y.last_tap * s->kernel_w + x.last_tap, width, 1,
                                       x.taps ? y.taps : 0, x.taps, (s->stride_h == 1 ? s->dilation_h : 1) * width,
                                       s->stride_w == 1 ? s->dilation_w : 1, -s->stride_h * s->kernel_w, -s->stride_w,
                                       y.count, x.count, s->stride_h * s->in_w, s->stride_w, 0.0f};
                correlate(&c, out + y.first * s->in_w + x.first);
            }
    }
}

/* Three neighbouring taps of one kernel row, four positions at a time. */
static LFWD_INLINE void three_taps(const float *grad, const float *image, int32_t rows, int32_t columns, int32_t down, const int32_t right,
                              float sums[3])
{
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f;
    for (; rows != 0; rows--, image += down) {
        const float *p = image;
        int32_t single = columns;
        if (right <= 2) {
            for (int32_t k = columns >> 2; k != 0; k--, p += 4 * right) {
                LFWD_OPAQUE(k);
                LFWD_LOADED;
                if (right == 1) {
                    LFWD_LOW6(p);
                    LFWD_NEXT_TOP4(grad);
                    s0 += y6 * y0, s1 += y6 * y1, s2 += y6 * y2;
                    s0 += y7 * y1, s1 += y7 * y2, s2 += y7 * y3;
                    s0 += u0 * y2, s1 += u0 * y3, s2 += u0 * y4;
                    s0 += u1 * y3, s1 += u1 * y4, s2 += u1 * y5;
                } else {
                    LFWD_LOW8(p);
                    LFWD_NEXT2(grad);
                    s0 += u0 * y0, s1 += u0 * y1, s2 += u0 * y2;
                    s0 += u1 * y2, s1 += u1 * y3, s2 += u1 * y4;
                    LFWD_NEXT2(grad);
                    s0 += u0 * y4, s1 += u0 * y5, s2 += u0 * y6;
                    s0 += u1 * y6, s1 += u1 * y7, s2 += u1 * p[8];
                }
            }
            single = columns & 3;
        }
        for (; single != 0; single--, p += right) {
            LFWD_OPAQUE(single);
            const float g = *grad++;
            s0 += g * p[0], s1 += g * p[1], s2 += g * p[2];
        }
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2;
}

static LFWD_APART void taps3(const float *grad, const float *image, int32_t rows, int32_t columns, int32_t down, int32_t right, float sums[3])
{
    if (right == 1)
        three_taps(grad, image, rows, columns, down, 1, sums);
    else if (right == 2)
        three_taps(grad, image, rows, columns, down, 2, sums);
    else
        three_taps(grad, image, rows, columns, down, right, sums);
}

static inline float tap1(const float *grad, const float *image, int32_t rows, int32_t columns, int32_t down, int32_t right)
{
    float sum = 0.0f;
    for (; rows > 0; rows--, image += down)
        for (int32_t k = 0; k < columns; k++) sum += *grad++ * image[k * right];
    return sum;
}

void lfwd_sgd_depthwise_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr, float decay,
                            float *scratch)
{
    const int32_t height = reach(s->out_h, s->stride_h, s->kernel_h, s->dilation_h);
    const int32_t width = reach(s->out_w, s->stride_w, s->kernel_w, s->dilation_w), down = s->stride_h * width;
    memset(scratch, 0, (size_t)lfwd_depthwise_scratch(s) * sizeof *scratch);
    for (int32_t n = 0; n < s->batch; n++) {
        float *to = state;
        for (int32_t i = 0; i < s->in_c; i++, x += s->in_h * s->in_w, grad += s->out_h * s->out_w) {
            place(x, s->in_h, s->in_w, s->pad_h, s->pad_w, height, width, scratch);
            for (int32_t ky = 0; ky < s->kernel_h; ky++, to += s->kernel_w) {
                const float *image = scratch + ky * s->dilation_h * width;
                float sums[3] = {0};
                if (s->kernel_w == 3 && s->dilation_w == 1) taps3(grad, image, s->out_h, s->out_w, down, s->stride_w, sums);
                for (int32_t kx = 0; kx < s->kernel_w; kx++) {
                    const float g = s->kernel_w == 3 && s->dilation_w == 1
                                        ? sums[kx]
                                        : tap1(grad, image + kx * s->dilation_w, s->out_h, s->out_w, down, s->stride_w);
                    to[kx] = (n ? 1.0f : decay) * to[kx] - lr * g;
                }
            }
        }
    }
}
