/* Matrix products in blocks of 4 x 4; sums run in the order of k. */
#include "lfwd_products.h"

#include "lfwd_block4.h"

#define PUT_ROW(to, s0, s1, s2, s3) (to)[0] = s0, (to)[1] = s1, (to)[2] = s2, (to)[3] = s3;

/* Four rows of A from `a` on, of which `left` are wanted, by all whole blocks of four columns; `packed`: rows of B are four long. */
static LFWD_INLINE void any_blocks(const lfwd_product *p, const float *a, int32_t left, const float start[4], float *out, const int32_t packed)
{
    LFWD_FOUR(a, a, p->a_row, left)
    const int32_t b_row = packed ? 4 : p->b_row, gap = p->gap, inner = p->inner, out_row = p->out_row, back = p->outer * (inner + gap);
    const float *column = p->b;
    for (int32_t n = p->n / 4; n != 0; n--, column += 4, out += 4) {
        LFWD_OPAQUE(n);
        const float *b = column;
        float *to = out;
#if LFWD_HELIUM_FLOAT
        float32x4_t s0 = vdupq_n_f32(start[0]), s1 = vdupq_n_f32(start[1]), s2 = vdupq_n_f32(start[2]), s3 = vdupq_n_f32(start[3]);
        for (int32_t o = p->outer; o != 0; o--, a0 += gap, a1 += gap, a2 += gap, a3 += gap)
            for (int32_t k = inner; k > 0; k--, b += b_row) {
                const float32x4_t v = vld1q_f32(b);
                s0 = vfmaq_n_f32(s0, v, *a0++);
                s1 = vfmaq_n_f32(s1, v, *a1++);
                s2 = vfmaq_n_f32(s2, v, *a2++);
                s3 = vfmaq_n_f32(s3, v, *a3++);
            }
        vst1q_f32(to, s0);
        vst1q_f32(to + out_row, s1);
        vst1q_f32(to + 2 * out_row, s2);
        vst1q_f32(to + 3 * out_row, s3);
#else
        LFWD_SUMS(start[0], start[1], start[2], start[3])
        for (int32_t o = p->outer; o != 0; o--, a0 += gap, a1 += gap, a2 += gap, a3 += gap) {
            LFWD_OPAQUE(o);
            for (int32_t k = inner >> 1; k != 0; k--) {
                LFWD_OPAQUE(k);
                LFWD_LOADED;
                if (packed) {
                    LFWD_NEXT8(b);
                } else {
                    LFWD_LOW4(b);
                    b += b_row;
                    LFWD_HIGH4(b);
                    b += b_row;
                }
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

static LFWD_APART void packed_blocks(const lfwd_product *p, const float *a, int32_t left, const float start[4], float *out)
{
    any_blocks(p, a, left, start, out, 1);
}

static LFWD_APART void apart_blocks(const lfwd_product *p, const float *a, int32_t left, const float start[4], float *out)
{
    any_blocks(p, a, left, start, out, 0);
}

static void blocks(const lfwd_product *p, const float *a, int32_t left, const float start[4], float *out)
{
    p->b_row == 4 ? packed_blocks(p, a, left, start, out) : apart_blocks(p, a, left, start, out);
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
        blocks(&part, a, left, start, sums);
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

/* All whole blocks of four columns of A by four columns of B. */
static LFWD_APART void blocks_transposed(const lfwd_product *p)
{
    const int32_t a_row = p->a_row, b_row = p->b_row, out_row = p->out_row;
    const int32_t wide = p->n / 4;
    const float *left = p->a, *column = p->b;
    float *out = p->out;
    int32_t n = wide;
    for (int32_t blocks = p->m / 4 * wide; blocks != 0; blocks--) {
        LFWD_OPAQUE(blocks);
        const float *a = left, *b = column;
        float *to = out;
#if LFWD_HELIUM_FLOAT
        float32x4_t s0 = vdupq_n_f32(0.0f), s1 = s0, s2 = s0, s3 = s0;
        for (int32_t k = p->inner; k > 0; k--, a += a_row, b += b_row) {
            const float32x4_t v = vld1q_f32(b);
            s0 = vfmaq_n_f32(s0, v, a[0]);
            s1 = vfmaq_n_f32(s1, v, a[1]);
            s2 = vfmaq_n_f32(s2, v, a[2]);
            s3 = vfmaq_n_f32(s3, v, a[3]);
        }
        vst1q_f32(to, s0);
        vst1q_f32(to + out_row, s1);
        vst1q_f32(to + 2 * out_row, s2);
        vst1q_f32(to + 3 * out_row, s3);
#else
        LFWD_SUMS(0.0f, 0.0f, 0.0f, 0.0f)
        for (int32_t k = p->inner; k != 0; k--) {
            LFWD_OPAQUE(k);
            LFWD_LOADED;
            LFWD_LOW4(a);
            LFWD_HIGH4(b);
            a += a_row, b += b_row;
            LFWD_OUTER(y0, y1, y2, y3, y4, y5, y6, y7)
            (void)u0, (void)u1;
        }
        LFWD_ROWS(PUT_ROW, to, out_row)
#endif
        column += 4, out += 4;
        if (--n == 0) {
            n = wide, column = p->b;
            left += 4, out += 4 * (out_row - n);
        }
    }
}

/* Up to four neighbouring columns of A against one column of B, or up to four of B against one of A. */
static LFWD_APART void strip(const float *four, int32_t four_row, int32_t left, const float *one, int32_t one_row, int32_t k, float *out,
                         int32_t out_step)
{
    if (left == 4) {
        float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
        for (; k > 0; k--, four += four_row, one += one_row) {
            LFWD_LOADED;
            LFWD_LOW4(four);
            const float v = *one;
            s0 += v * y0, s1 += v * y1, s2 += v * y2, s3 += v * y3;
            (void)y4, (void)y5, (void)y6, (void)y7, (void)u0, (void)u1;
        }
        out[0] = s0, out[out_step] = s1, out[2 * out_step] = s2, out[3 * out_step] = s3;
        return;
    }
    for (int32_t r = 0; r < left; r++) {
        float sum = 0.0f;
        for (int32_t i = 0; i < k; i++) sum += four[i * four_row + r] * one[i * one_row];
        out[r * out_step] = sum;
    }
}

void lfwd_product_transposed_f32(const lfwd_product *p)
{
    if (p->n >= 4) blocks_transposed(p);
    for (int32_t i = p->n & 3 ? 0 : p->m & ~3; i < p->m; i += 4) {
        const int32_t left = lfwd_least(p->m - i, 4);
        const float *a = p->a + i;
        float *out = p->out + i * p->out_row;
        int32_t j = left == 4 ? p->n & ~3 : 0;
        for (; left < 4 && j + 4 <= p->n; j += 4)
            for (int32_t r = 0; r < left; r++)
                strip(p->b + j, p->b_row, 4, a + r, p->a_row, p->inner, out + r * p->out_row + j, 1);
        for (; j < p->n; j++) strip(a, p->a_row, left, p->b + j, p->b_row, p->inner, out + j, p->out_row);
    }
}
