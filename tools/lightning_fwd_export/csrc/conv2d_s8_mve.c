/* Int8 convolution on Helium: 16 multiply-accumulates per VMLADAVA.
 *
 * Each output pixel is unfolded (im2col) as int8 with padding = the input's zero point; a 1x1 filter reads the image where it
 * lies. Four filters share every load of the column, and their four sums are requantised as one vector, which NHWC stores side
 * by side. sum(w * (x + offset)) = sum(w * x) + offset * sum(w): the second term joins the bias once per image.
 */
#include "conv2d_s8_body.h"
#include "lfwd_requantize.h"
#if LFWD_MVE
#include <string.h>

static inline void copy_run(int8_t *out, const int8_t *in, int32_t count)
{
    for (int32_t block = count >> 4; block > 0; block--, in += 16, out += 16) vstrbq_s8(out, vldrbq_s8(in));
    if (count & 15) {
        const mve_pred16_t valid = vctp8q((uint32_t)(count & 15));
        vstrbq_p_s8(out, vldrbq_z_s8(in, valid), valid);
    }
}

static void unfold(const lfwd_conv2d_s8_params *p, const int8_t *input, int32_t top, int32_t left, int8_t *column)
{
    const int32_t c = p->in_c, row = p->kernel_w * c, image_row = p->in_w * c;
    const int8_t *from = input + top * image_row + left * c;
    if (top >= 0 && left >= 0 && top + p->kernel_h <= p->in_h && left + p->kernel_w <= p->in_w) {
        for (int32_t ky = p->kernel_h; ky > 0; ky--, column += row, from += image_row) copy_run(column, from, row);
        return;
    }
    const int32_t first = left < 0 ? -left : 0;
    const int32_t end = left + p->kernel_w > p->in_w ? p->in_w - left : p->kernel_w;
    memset(column, (int8_t)-p->input_offset, (size_t)(p->kernel_h * row));
    for (int32_t ky = 0; ky < p->kernel_h; ky++, column += row, from += image_row)
        if (top + ky >= 0 && top + ky < p->in_h && first < end)
            copy_run(column + first * c, from + first * c, (end - first) * c);
}

/* Where one group of four filters reads and writes; the pointers move on from group to group. */
typedef struct {
    const int8_t *weight;
    const int32_t *start, *multiplier, *shift;
    int8_t *output;
} group;

static inline int32x4_t dot4(const int8_t *w0, const int8_t *w1, const int8_t *w2, const int8_t *w3, const int8_t *x,
                             int32_t count)
{
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (int32_t block = count >> 4; block > 0; block--) {
        const int8x16_t xv = vldrbq_s8(x);
        s0 = vmladavaq_s8(s0, xv, vldrbq_s8(w0));
        s1 = vmladavaq_s8(s1, xv, vldrbq_s8(w1));
        s2 = vmladavaq_s8(s2, xv, vldrbq_s8(w2));
        s3 = vmladavaq_s8(s3, xv, vldrbq_s8(w3));
        x += 16, w0 += 16, w1 += 16, w2 += 16, w3 += 16;
    }
    if (count & 15) {
        const mve_pred16_t valid = vctp8q((uint32_t)(count & 15));
        const int8x16_t xv = vldrbq_z_s8(x, valid); /* lanes beyond the filter read as zero */
        s0 = vmladavaq_s8(s0, xv, vldrbq_z_s8(w0, valid));
        s1 = vmladavaq_s8(s1, xv, vldrbq_z_s8(w1, valid));
        s2 = vmladavaq_s8(s2, xv, vldrbq_z_s8(w2, valid));
        s3 = vmladavaq_s8(s3, xv, vldrbq_z_s8(w3, valid));
    }
    int32x4_t sums = vdupq_n_s32(s0);
    sums = vsetq_lane_s32(s1, sums, 1);
    sums = vsetq_lane_s32(s2, sums, 2);
    return vsetq_lane_s32(s3, sums, 3);
}

/* All full groups of one pixel; every shift is a right shift. */
static __attribute__((noinline)) void full_groups(const lfwd_conv2d_s8_params *p, group *first, const int8_t *x,
                                                  int32_t filter, int32_t groups)
{
    group g = *first;
    const int32x4_t low = vdupq_n_s32(p->act_min), high = vdupq_n_s32(p->act_max);
    const int32_t offset = p->output_offset;
    for (; groups > 0; groups--) {
        const int8_t *w1 = g.weight + filter, *w2 = w1 + filter, *w3 = w2 + filter;
        const int32x4_t sums = vaddq_s32(dot4(g.weight, w1, w2, w3, x, filter), vld1q_s32(g.start));
        const int32x4_t q = vaddq_n_s32(lfwd_requantize_x4(sums, vld1q_s32(g.multiplier), vld1q_s32(g.shift)), offset);
        vstrbq_s32(g.output, vminq_s32(vmaxq_s32(q, low), high));
        g.weight = w3 + filter;
        g.start += 4, g.multiplier += 4, g.shift += 4, g.output += 4;
    }
    *first = g;
}

/* Up to four channels, any shift. */
static __attribute__((noinline)) void last_group(const lfwd_conv2d_s8_params *p, const group *g, const int8_t *x,
                                                 int32_t filter, int32_t lanes)
{
    const int8_t *w1 = lanes > 1 ? g->weight + filter : g->weight, *w2 = lanes > 2 ? w1 + filter : w1;
    const int32x4_t sums = dot4(g->weight, w1, w2, lanes > 3 ? w2 + filter : w2, x, filter);
    int32_t values[4];
    vst1q_s32(values, sums);
    for (int32_t lane = 0; lane < lanes; lane++)
        g->output[lane] = lfwd_requantize_s8(values[lane] + g->start[lane], g->multiplier[lane], g->shift[lane],
                                             p->output_offset, p->act_min, p->act_max);
}

static int32_t sum(const int8_t *values, int32_t count)
{
    int32_t total = 0;
    for (; count > 0; count -= 16, values += 16) total = vaddvaq_s8(total, vldrbq_z_s8(values, vctp8q((uint32_t)count)));
    return total;
}

void lfwd_conv2d_s8_mve(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *bias,
                        const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output)
{
    const int32_t filter = p->kernel_h * p->kernel_w * p->in_c, channels = p->out_c;
    const int direct = p->kernel_h == 1 && p->kernel_w == 1 && p->pad_top == 0 && p->pad_left == 0;
    int32_t *start = scratch;
    int8_t *column = (int8_t *)(start + channels);
    int32_t groups = channels >> 2; /* those that run as vectors */
    for (int32_t o = 0; o < channels; o++) {
        start[o] = (bias ? bias[o] : 0) + p->input_offset * sum(weight + o * filter, filter);
        if (groups > o >> 2 && shift[o] > 0) groups = o >> 2;
    }
    for (int32_t y = 0; y < p->out_h; y++) {
        const int32_t top = y * p->stride_h - p->pad_top;
        for (int32_t i = 0; i < p->out_w; i++, output += channels) {
            const int32_t left = i * p->stride_w - p->pad_left;
            const int8_t *x = direct ? input + (top * p->in_w + left) * p->in_c : column;
            if (!direct) unfold(p, input, top, left, column);
            group g = {weight, start, multiplier, shift, output};
            full_groups(p, &g, x, filter, groups);
            for (int32_t o = groups * 4; o < channels; o += 4) {
                last_group(p, &g, x, filter, channels - o < 4 ? channels - o : 4);
                g.weight += 4 * filter;
                g.start += 4, g.multiplier += 4, g.shift += 4, g.output += 4;
            }
        }
    }
}
#else
typedef int lfwd_conv2d_s8_mve_not_built; /* ISO C forbids an empty translation unit */
#endif
