/* Int8 depthwise convolution on Helium: channels lie side by side in NHWC, so one lane is one channel, four at a time in int32.
 * The usual filter, 3x3 at stride 1, walks along a row with three sums on the way: each column of the image is read once. */
#include "depthwise_s8_body.h"
#include "lfwd_requantize.h"
#if LFWD_MVE
#include <string.h>

static inline int32x4_t mac(int32x4_t sum, int32x4_t x, int32x4_t w)
{
    return vaddq_s32(sum, vmulq_s32(x, w));
}

static inline void store(const lfwd_conv2d_s8_params *p, int8_t *out, int32x4_t sum, int32x4_t multiplier, int32x4_t shift,
                         mve_pred16_t valid)
{
    const int32x4_t q = vaddq_n_s32(lfwd_requantize_x4(sum, multiplier, shift), p->output_offset);
    vstrbq_p_s32(out, vminq_s32(vmaxq_s32(q, vdupq_n_s32(p->act_min)), vdupq_n_s32(p->act_max)), valid);
}

static inline int32x4_t load(const int8_t *from, int32_t full, mve_pred16_t valid)
{
    return full ? vldrbq_s32(from) : vldrbq_z_s32(from, valid);
}

/* Four outputs of a channel group: `high` rows of `wide` taps, windows `next` apart in the image and `out_next` in the output. */
typedef struct {
    const lfwd_conv2d_s8_params *p;
    const int8_t *weight;
    const int32_t *start, *multiplier, *shift;
    int32_t next, out_next, high, wide, step, back;
} windows;

/* Their windows lie inside the image from `x` on; every weight is loaded once for the four. */
static inline __attribute__((always_inline)) void four_outputs(const windows *f, const int8_t *x, int32_t full, mve_pred16_t valid, int8_t *out)
{
    const int32_t channels = f->p->in_c, step = f->step, back = f->back, next = f->next, out_next = f->out_next;
    const int8_t *w = f->weight, *x1 = x + next, *x2 = x1 + next, *x3 = x2 + next;
    int32x4_t s0 = vldrwq_z_s32(f->start, valid), s1 = s0, s2 = s0, s3 = s0;
    for (int32_t ky = f->high; ky > 0; ky--, x += back, x1 += back, x2 += back, x3 += back)
        for (int32_t k = f->wide; k > 0; k--, w += channels) {
            const int32x4_t v = load(w, full, valid);
            s0 = mac(s0, load(x, full, valid), v), x += step;
            s1 = mac(s1, load(x1, full, valid), v), x1 += step;
            s2 = mac(s2, load(x2, full, valid), v), x2 += step;
            s3 = mac(s3, load(x3, full, valid), v), x3 += step;
        }
    const int32x4_t m = vldrwq_z_s32(f->multiplier, valid), shift = vldrwq_z_s32(f->shift, valid);
    store(f->p, out, s0, m, shift, valid);
    store(f->p, out + out_next, s1, m, shift, valid);
    store(f->p, out + 2 * out_next, s2, m, shift, valid);
    store(f->p, out + 3 * out_next, s3, m, shift, valid);
}

/* Functions of their own, so that the loop has all registers. */
static __attribute__((noinline)) void four_windows(const windows *f, const int8_t *x, mve_pred16_t valid, int8_t *out)
{
    four_outputs(f, x, 1, valid, out);
}

static __attribute__((noinline)) void four_windows_in_part(const windows *f, const int8_t *x, mve_pred16_t valid, int8_t *out)
{
    four_outputs(f, x, 0, valid, out);
}

/* Up to four channels from `o` on of a whole image, any filter. */
static inline __attribute__((always_inline)) void any_filter(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *zeros,
                                                             const int8_t *weight, const int32_t *start, const int32_t *multiplier,
                                                             const int32_t *shift, int32_t o, int32_t full, int8_t *output)
{
    const int32_t channels = p->in_c, row = p->dilation_h * p->in_w * channels, step = p->dilation_w * channels;
    const int32_t last_top = p->in_h - 1 - (p->kernel_h - 1) * p->dilation_h;
    const int32_t last_left = p->in_w - 1 - (p->kernel_w - 1) * p->dilation_w;
    const mve_pred16_t valid = vctp32q((uint32_t)(channels - o));
    const int32x4_t begin = vldrwq_z_s32(start + o, valid), m = vldrwq_z_s32(multiplier + o, valid);
    const int32x4_t s = vldrwq_z_s32(shift + o, valid);
    const int32_t kernel_h = p->kernel_h, kernel_w = p->kernel_w; /* a store of int8_t may change *p, for all that a compiler knows */
    const int32_t out_h = p->out_h, out_w = p->out_w, stride_h = p->stride_h, stride_w = p->stride_w;
    const int32_t tall = kernel_w == 1, high = tall ? 1 : kernel_h, wide = tall ? kernel_h : kernel_w, tap = tall ? row : step;
    const int32_t next = out_w == 1 ? stride_h * p->in_w * channels : stride_w * channels;
    const windows four = {p, weight + o, start + o, multiplier + o, shift + o, next, channels, high, wide, tap, row - wide * tap};
    int8_t *out = output + o;
    for (int32_t y = 0; y < out_h; y++) {
        const int32_t top = y * stride_h - p->pad_top, rows_inside = top >= 0 && top <= last_top;
        for (int32_t i = 0; i < out_w; i++, out += channels) {
            const int32_t left = i * stride_w - p->pad_left;
            const int8_t *w = weight + o;
            int32x4_t sum = begin;
            /* four neighbours of a row, or of a column where a row has one */
            const int32_t columns = out_w > 1 && i + 4 <= out_w && left + 3 * stride_w <= last_left;
            const int32_t lines = out_w == 1 && y + 4 <= out_h && top + 3 * stride_h <= last_top && left <= last_left;
            if (rows_inside && left >= 0 && (columns || lines)) {
                (full ? four_windows : four_windows_in_part)(&four, input + (top * p->in_w + left) * channels + o, valid, out);
                out += 3 * channels;
                columns ? (i += 3) : (y += 3);
                continue;
            }
            if (rows_inside && left >= 0 && left <= last_left) {
                const int8_t *x = input + (top * p->in_w + left) * channels + o;
                if (kernel_w == 1) {
                    for (int32_t k = kernel_h; k > 0; k--, x += row, w += channels)
                        sum = mac(sum, load(x, full, valid), load(w, full, valid));
                } else {
                    for (int32_t ky = kernel_h; ky > 0; ky--, x += row) {
                        const int8_t *pixel = x;
                        for (int32_t k = kernel_w; k > 0; k--, pixel += step, w += channels)
                            sum = mac(sum, load(pixel, full, valid), load(w, full, valid));
                    }
                }
            } else {
                for (int32_t ky = 0; ky < kernel_h; ky++)
                    for (int32_t kx = 0; kx < kernel_w; kx++, w += channels)
                        sum = mac(sum, load(lfwd_tap(p, input, zeros, top, left, ky, kx) + o, full, valid), load(w, full, valid));
            }
            store(p, out, sum, m, s, valid);
        }
    }
}

/* Where the three rows of a window walk: `x` the next pixel, `next` what leads to the one after: nothing for a row outside the image,
 * which is one pixel of zero points. */
typedef struct {
    const int8_t *x0, *x1, *x2;
    int32_t next0, next1, next2;
} rows;

/* The sums of the outputs that a column of the image is first, second and third in. */
typedef struct {
    int32x4_t first, second, third;
} walk;

static inline __attribute__((always_inline)) walk add_column(walk s, int32x4_t start, const int32x4_t w[9], int32x4_t x0, int32x4_t x1,
                                                             int32x4_t x2)
{
    walk r;
    r.third = mac(mac(mac(s.second, x0, w[2]), x1, w[5]), x2, w[8]);
    r.second = mac(mac(mac(s.first, x0, w[1]), x1, w[4]), x2, w[7]);
    r.first = mac(mac(mac(start, x0, w[0]), x1, w[3]), x2, w[6]);
    return r;
}

static inline __attribute__((always_inline)) walk next_column(walk s, int32x4_t start, const int32x4_t w[9], rows *at, int32_t full,
                                                              mve_pred16_t valid)
{
    const int32x4_t x0 = load(at->x0, full, valid), x1 = load(at->x1, full, valid), x2 = load(at->x2, full, valid);
    at->x0 += at->next0, at->x1 += at->next1, at->x2 += at->next2;
    return add_column(s, start, w, x0, x1, x2);
}

/* Up to four channels from `o` on of a whole image, 3x3 at stride 1, padded by at most one column on either side. */
static inline __attribute__((always_inline)) void walk_rows(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *zeros,
                                                            const int8_t *weight, const int32_t *start, const int32_t *multiplier,
                                                            const int32_t *shift, int32_t o, int32_t full, int8_t *output)
{
    const int32_t channels = p->in_c, left = p->pad_left, right = p->out_w + 2 - left - p->in_w;
    const mve_pred16_t valid = vctp32q((uint32_t)(channels - o));
    const int32x4_t begin = vldrwq_z_s32(start + o, valid), m = vldrwq_z_s32(multiplier + o, valid);
    const int32x4_t s = vldrwq_z_s32(shift + o, valid), zero_point = vdupq_n_s32(-p->input_offset);
    int32x4_t w[9];
    for (int32_t k = 0; k < 9; k++) w[k] = vldrbq_z_s32(weight + o + k * channels, valid);
    int8_t *out = output + o;
    for (int32_t y = 0; y < p->out_h; y++) {
        const int32_t top = y - p->pad_top;
        const int32_t in0 = top >= 0, in1 = top >= -1 && top + 1 < p->in_h, in2 = top + 2 < p->in_h;
        const int8_t *const x = input + top * p->in_w * channels + o;
        rows at = {in0 ? x : zeros, in1 ? x + p->in_w * channels : zeros, in2 ? x + 2 * p->in_w * channels : zeros,
                   in0 ? channels : 0, in1 ? channels : 0, in2 ? channels : 0};
        walk sums = {begin, begin, begin};
        if (left)
            sums = add_column(sums, begin, w, zero_point, zero_point, zero_point);
        else
            sums = next_column(sums, begin, w, &at, full, valid);
        sums = next_column(sums, begin, w, &at, full, valid);
        for (int32_t i = p->out_w - (right > 0); i > 0; i--, out += channels) {
            sums = next_column(sums, begin, w, &at, full, valid);
            store(p, out, sums.third, m, s, valid);
        }
        if (right > 0) {
            sums = add_column(sums, begin, w, zero_point, zero_point, zero_point);
            store(p, out, sums.third, m, s, valid);
            out += channels;
        }
    }
}

void lfwd_depthwise_s8_mve(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                           const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output)
{
    int8_t *zeros = scratch;
    const int32_t channels = p->in_c;
    const int usual = p->kernel_h == 3 && p->kernel_w == 3 && p->stride_h == 1 && p->stride_w == 1 && p->dilation_h == 1 &&
                      p->dilation_w == 1 && p->pad_top <= 2 && p->pad_left <= 1 && p->out_w + 1 - p->pad_left <= p->in_w &&
                      p->in_w - p->pad_left >= 1 && p->in_w + p->pad_left >= 2;
    memset(zeros, (int8_t)-p->input_offset, (size_t)channels);
    int32_t o = 0;
    for (; o + 4 <= channels; o += 4) {
        if (usual)
            walk_rows(p, input, zeros, weight, start, multiplier, shift, o, 1, output);
        else
            any_filter(p, input, zeros, weight, start, multiplier, shift, o, 1, output);
    }
    if (o < channels) {
        if (usual)
            walk_rows(p, input, zeros, weight, start, multiplier, shift, o, 0, output);
        else
            any_filter(p, input, zeros, weight, start, multiplier, shift, o, 0, output);
    }
}
#else
typedef int lfwd_depthwise_s8_mve_not_built; /* ISO C forbids an empty translation unit */
#endif
