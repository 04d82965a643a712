/* Taps over planes without edges: the inner loops of the float depthwise convolution and its gradients. */
#include "lfwd_depthwise.h"

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
static LFWD_INLINE void plane(const lfwd_correlation *c, float *out, const int32_t taps, const int32_t step)
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
static LFWD_INLINE void small_plane(const lfwd_correlation *c, float *out, const int32_t high, const int32_t taps, const int32_t step)
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

static LFWD_APART void plane_3x3(const lfwd_correlation *c, float *out) { small_plane(c, out, 3, 3, 1); }
static LFWD_APART void plane_3x3_at_2(const lfwd_correlation *c, float *out) { small_plane(c, out, 3, 3, 2); }
static LFWD_APART void plane_2x2(const lfwd_correlation *c, float *out) { small_plane(c, out, 2, 2, 1); }
static LFWD_APART void plane_2x1(const lfwd_correlation *c, float *out) { small_plane(c, out, 2, 1, 1); }
static LFWD_APART void plane_1x2(const lfwd_correlation *c, float *out) { small_plane(c, out, 1, 2, 1); }
static LFWD_APART void plane_1x1(const lfwd_correlation *c, float *out) { small_plane(c, out, 1, 1, 1); }

/* The function for a filter of up to three by three, null for another. */
static void (*small(const lfwd_correlation *c))(const lfwd_correlation *, float *)
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

/* Any taps, four columns at a time, tap by tap; columns neighbours (`step` 1) or not (0), a constant where this is called. */
static LFWD_INLINE void plane_by_taps(const lfwd_correlation *c, float *out, const int32_t step)
{
    const int32_t columns = c->columns, right = step ? step : c->right, tap_step = c->tap_step, w_step = c->w_step, kernel_w = c->kernel_w;
    const float *row = c->image;
#if LFWD_HELIUM_FLOAT
    const uint32x4_t offsets = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)right);
#endif
    for (int32_t y = c->rows; y != 0; y--, row += c->down, out += c->out_row) {
        const float *from = row;
        float *to = out;
        for (int32_t left = columns; left > 0;) {
            const float *line = from, *w_line = c->w;
#if LFWD_HELIUM_FLOAT
            float32x4_t sum = vdupq_n_f32(c->start);
            for (int32_t ky = c->kernel_h; ky > 0; ky--, line += c->tap_row, w_line += c->w_row) {
                const float *p = line, *w = w_line;
                for (int32_t kx = kernel_w; kx > 0; kx--, p += tap_step, w += w_step)
                    sum = vfmaq_n_f32(sum, step == 1 ? vld1q_f32(p) : vldrwq_gather_shifted_offset_f32(p, offsets), *w);
            }
            if (columns >= 4 && c->out_step == 1)
                vst1q_f32(to, sum);
            else
                put(to, c->out_step, columns, vgetq_lane_f32(sum, 0), vgetq_lane_f32(sum, 1), vgetq_lane_f32(sum, 2), vgetq_lane_f32(sum, 3));
#else
            float s0 = c->start, s1 = s0, s2 = s0, s3 = s0;
            for (int32_t ky = c->kernel_h; ky > 0; ky--, line += c->tap_row, w_line += c->w_row) {
                const float *p = line, *w = w_line;
                for (int32_t kx = kernel_w; kx > 0; kx--, p += tap_step, w += w_step) {
                    LFWD_OPAQUE(kx);
                    LFWD_LOADED;
                    const float v = *w;
                    if (step == 1)
                        LFWD_LOW4(p);
                    else
                        y0 = p[0], y1 = p[right], y2 = p[2 * right], y3 = p[3 * right];
                    s0 += v * y0, s1 += v * y1, s2 += v * y2, s3 += v * y3;
                    (void)y4, (void)y5, (void)y6, (void)y7, (void)u0, (void)u1;
                }
            }
            put(to, c->out_step, columns, s0, s1, s2, s3);
#endif
            left -= 4;
            const int32_t on = lfwd_least(left, 4);
            from += on * right, to += on * c->out_step;
        }
    }
}

static LFWD_APART void plane_of_3(const lfwd_correlation *c, float *out) { plane(c, out, 3, 1); }
static LFWD_APART void plane_of_3_apart(const lfwd_correlation *c, float *out) { plane(c, out, 3, 0); }
static LFWD_APART void plane_of_2(const lfwd_correlation *c, float *out) { plane(c, out, 2, 1); }
static LFWD_APART void plane_of_any(const lfwd_correlation *c, float *out) { plane_by_taps(c, out, 1); }
static LFWD_APART void plane_of_any_apart(const lfwd_correlation *c, float *out) { plane_by_taps(c, out, 0); }

void lfwd_correlate_f32(const lfwd_correlation *c, float *out)
{
#if !LFWD_HELIUM_FLOAT
    void (*const run)(const lfwd_correlation *, float *) = small(c);
    if (run) {
        run(c, out);
        return;
    }
#endif
    if (c->kernel_w == 3 && c->tap_step == 1)
        c->right == 1 ? plane_of_3(c, out) : plane_of_3_apart(c, out);
    else if (c->kernel_w == 2 && c->tap_step == 1 && c->right == 1)
        plane_of_2(c, out);
    else
        c->right == 1 ? plane_of_any(c, out) : plane_of_any_apart(c, out);
}
