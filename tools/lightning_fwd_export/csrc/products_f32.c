/* Matrix products in blocks of 4 x 4; sums run in the order of k. */
#include "lfwd_products.h"

#include "lfwd_block4.h"

#define PUT_ROW(to, s0, s1, s2, s3) (to)[0] = s0, (to)[1] = s1, (to)[2] = s2, (to)[3] = s3;

#if LFWD_HELIUM_FLOAT
#define FOUR_ROWS_OF_VECTOR(b)              \
    {                                       \
        const float32x4_t v = vld1q_f32(b); \
        s0 = vfmaq_n_f32(s0, v, *a0++);     \
        s1 = vfmaq_n_f32(s1, v, *a1++);     \
        s2 = vfmaq_n_f32(s2, v, *a2++);     \
        s3 = vfmaq_n_f32(s3, v, *a3++);     \
    }
#define PUT_VECTORS(to, row) \
    vst1q_f32(to, s0), vst1q_f32((to) + (row), s1), vst1q_f32((to) + 2 * (row), s2), vst1q_f32((to) + 3 * (row), s3)
#endif

/* `count` times four rows of A from `a` on by four columns of B, whose rows lie side by side; of the last four rows only `left` are there. */
static LFWD_APART void panel(const lfwd_product *p, const float *a, int32_t count, int32_t left, const float *start, int32_t start_step, float *out)
{
    LFWD_FOUR(a, a, p->a_row, left)
    const int32_t gap = p->gap, inner = p->inner, out_row = p->out_row, on = 4 * p->a_row - p->outer * (inner + gap);
    for (; count != 0; count--, a0 += on, a1 += on, a2 += on, a3 += on, start += start_step) {
        LFWD_OPAQUE(count);
        const float *b = p->b;
        float *to = out;
        out += 4 * out_row;
#if LFWD_HELIUM_FLOAT
        float32x4_t s0 = vdupq_n_f32(start[0]), s1 = vdupq_n_f32(start[1]), s2 = vdupq_n_f32(start[2]), s3 = vdupq_n_f32(start[3]);
        for (int32_t o = p->outer; o != 0; o--, a0 += gap, a1 += gap, a2 += gap, a3 += gap)
            for (int32_t k = inner; k > 0; k--, b += 4) FOUR_ROWS_OF_VECTOR(b)
        PUT_VECTORS(to, out_row);
#else
        LFWD_SUMS(start[0], start[1], start[2], start[3])
        for (int32_t o = p->outer; o != 0; o--, a0 += gap, a1 += gap, a2 += gap, a3 += gap) {
            LFWD_OPAQUE(o);
            for (int32_t k = inner >> 1; k != 0; k--) {
                LFWD_OPAQUE(k);
                LFWD_LOADED;
                LFWD_NEXT8(b);
                LFWD_TWO_OF_ROW(0, a0) LFWD_TWO_OF_ROW(1, a1) LFWD_TWO_OF_ROW(2, a2) LFWD_TWO_OF_ROW(3, a3)
            }
            if (inner & 1) {
                LFWD_STEP(*a0++, *a1++, *a2++, *a3++, b[0], b[1], b[2], b[3]);
                b += 4;
            }
        }
        LFWD_ROWS(PUT_ROW, to, out_row)
#endif
    }
}

/* Four rows of A from `a` on, of which `left` are there, by all whole blocks of four columns. */
static LFWD_APART void blocks(const lfwd_product *p, const float *a, int32_t left, const float start[4], float *out)
{
    LFWD_FOUR(a, a, p->a_row, left)
    const int32_t b_row = p->b_row, gap = p->gap, inner = p->inner, out_row = p->out_row, back = p->outer * (inner + gap);
    const float *column = p->b;
    for (int32_t n = p->n / 4; n != 0; n--, column += 4, out += 4) {
        LFWD_OPAQUE(n);
        const float *b = column;
        float *to = out;
#if LFWD_HELIUM_FLOAT
        float32x4_t s0 = vdupq_n_f32(start[0]), s1 = vdupq_n_f32(start[1]), s2 = vdupq_n_f32(start[2]), s3 = vdupq_n_f32(start[3]);
        for (int32_t o = p->outer; o != 0; o--, a0 += gap, a1 += gap, a2 += gap, a3 += gap)
            for (int32_t k = inner; k > 0; k--, b += b_row) FOUR_ROWS_OF_VECTOR(b)
        PUT_VECTORS(to, out_row);
#else
        LFWD_SUMS(start[0], start[1], start[2], start[3])
        for (int32_t o = p->outer; o != 0; o--, a0 += gap, a1 += gap, a2 += gap, a3 += gap) {
            LFWD_OPAQUE(o);
            for (int32_t k = inner >> 1; k != 0; k--) {
                LFWD_OPAQUE(k);
                LFWD_LOADED;
                LFWD_LOW4(b);
                b += b_row;
                LFWD_HIGH4(b);
                b += b_row;
                LFWD_TWO_OF_ROW(0, a0) LFWD_TWO_OF_ROW(1, a1) LFWD_TWO_OF_ROW(2, a2) LFWD_TWO_OF_ROW(3, a3)
            }
            if (inner & 1) {
                LFWD_STEP(*a0++, *a1++, *a2++, *a3++, b[0], b[1], b[2], b[3]);
                b += b_row;
            }
        }
        LFWD_ROWS(PUT_ROW, to, out_row)
#endif
        a0 -= back, a1 -= back, a2 -= back, a3 -= back;
    }
}

#define FOUR_OF_ROW(s, a)    \
    LFWD_NEXT_HIGH4(a);      \
    s += y0 * y4, s += y1 * y5, s += y2 * y6, s += y3 * y7;

/* Four rows and one column. */
static LFWD_APART void column(const lfwd_product *p, const float *a, int32_t left, const float *b, const float start[4], float sums[4])
{
    LFWD_FOUR(a, a, p->a_row, left)
    const int32_t b_row = p->b_row, gap = p->gap;
    float s0 = start[0], s1 = start[1], s2 = start[2], s3 = start[3];
    for (int32_t o = p->outer; o != 0; o--, a0 += gap, a1 += gap, a2 += gap, a3 += gap) {
        LFWD_OPAQUE(o);
        for (int32_t k = p->inner >> 2; k != 0; k--) {
            LFWD_OPAQUE(k);
            LFWD_LOADED;
            y0 = *b, b += b_row;
            y1 = *b, b += b_row;
            y2 = *b, b += b_row;
            y3 = *b, b += b_row;
            FOUR_OF_ROW(s0, a0) FOUR_OF_ROW(s1, a1) FOUR_OF_ROW(s2, a2) FOUR_OF_ROW(s3, a3)
            (void)u0, (void)u1;
        }
        for (int32_t k = p->inner & 3; k != 0; k--, b += b_row) {
            LFWD_OPAQUE(k);
            const float v = *b;
            s0 += v * *a0++;
            s1 += v * *a1++;
            s2 += v * *a2++;
            s3 += v * *a3++;
        }
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

/* One row and eight columns, or fewer. */
static LFWD_APART void row(const lfwd_product *p, const float *a, const float *b, float start, float *out)
{
    const int32_t b_row = p->b_row, gap = p->gap;
    int32_t n = p->n;
    for (; n >= 8; n -= 8, b += 8, out += 8) {
        const float *x = a, *from = b;
#if LFWD_HELIUM_FLOAT
        float32x4_t low = vdupq_n_f32(start), high = low;
        for (int32_t o = p->outer; o != 0; o--, x += gap)
            for (int32_t k = p->inner; k > 0; k--, from += b_row) {
                const float v = *x++;
                low = vfmaq_n_f32(low, vld1q_f32(from), v);
                high = vfmaq_n_f32(high, vld1q_f32(from + 4), v);
            }
        vst1q_f32(out, low);
        vst1q_f32(out + 4, high);
#else
        float s0 = start, s1 = start, s2 = start, s3 = start, s4 = start, s5 = start, s6 = start, s7 = start;
        for (int32_t o = p->outer; o != 0; o--, x += gap)
            for (int32_t k = p->inner; k != 0; k--, from += b_row) {
                LFWD_OPAQUE(k);
                LFWD_LOADED;
                LFWD_LOW8(from);
                const float v = *x++;
                s0 += v * y0, s1 += v * y1, s2 += v * y2, s3 += v * y3;
                s4 += v * y4, s5 += v * y5, s6 += v * y6, s7 += v * y7;
                (void)u0, (void)u1;
            }
        out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3, out[4] = s4, out[5] = s5, out[6] = s6, out[7] = s7;
#endif
    }
    for (; n > 0; n--, b++) {
        const float *x = a, *from = b;
        float sum = start;
        for (int32_t o = p->outer; o != 0; o--, x += gap)
            for (int32_t k = p->inner; k > 0; k--, from += b_row) sum += *x++ * *from;
        *out++ = sum;
    }
}

/* What is left of four rows where a block does not fit: columns beyond the last four, or all columns of three rows. */
static LFWD_APART void edges(const lfwd_product *p, const float *a, int32_t left, const float *starts, float *out)
{
    float start[4] = {0}, sums[16];
    for (int32_t r = 0; starts && r < left; r++) start[r] = starts[r];
    int32_t j = left == 4 ? p->n & ~3 : 0;
    lfwd_product part = *p;
    for (part.n = 4, part.out_row = 4; j + 4 <= p->n; j += 4) {
        part.b = p->b + j;
        p->b_row == 4 ? panel(&part, a, 1, left, start, 0, sums) : blocks(&part, a, left, start, sums);
        for (int32_t r = 0; r < 4 * left; r++) out[r / 4 * p->out_row + j + r % 4] = sums[r];
    }
    for (; j < p->n; j++) {
        column(p, a, left, p->b + j, start, sums);
        for (int32_t r = 0; r < left; r++) out[r * p->out_row + j] = sums[r];
    }
}

void lfwd_product_f32(const lfwd_product *p)
{
    static const float zeros[4];
    const float *a = p->a, *start = p->start;
    float *out = p->out;
    int32_t rows = p->m;
    if (p->b_row == 4 && p->n == 4 && rows >= 4) { /* columns of windows */
        const int32_t count = rows / 4;
        panel(p, a, count, 4, start ? start : zeros, start ? 4 : 0, out);
        rows &= 3, a += 4 * count * p->a_row, out += 4 * count * p->out_row;
        if (start) start += 4 * count;
    }
    for (; rows >= 4; rows -= 4, a += 4 * p->a_row, out += 4 * p->out_row) {
        if (p->n >= 4) blocks(p, a, 4, start ? start : zeros, out);
        if (p->n & 3) edges(p, a, 4, start, out);
        if (start) start += 4;
    }
    if (rows == 3) {
        edges(p, a, 3, start, out);
    } else
        for (; rows > 0; rows--, a += p->a_row, out += p->out_row) {
            row(p, a, p->b, start ? *start : 0.0f, out);
            if (start) start++;
        }
}
