/* Matrix products whose first factor is stored transposed, in blocks of 4 x 4. */
#include "lfwd_block4.h"
#include "lfwd_products.h"

#define PUT_ROW(to, s0, s1, s2, s3) (to)[0] = s0, (to)[1] = s1, (to)[2] = s2, (to)[3] = s3;

#define ONE_STEP                                   \
    {                                              \
        LFWD_LOADED;                               \
        LFWD_LOW4(a);                              \
        LFWD_HIGH4(b);                             \
        a += a_row, b += b_row;                    \
        LFWD_OUTER(y0, y1, y2, y3, y4, y5, y6, y7) \
        (void)u0, (void)u1;                        \
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
        for (int32_t k = p->inner >> 1; k != 0; k--) {
            LFWD_OPAQUE(k);
            ONE_STEP
            ONE_STEP
        }
        if (p->inner & 1) ONE_STEP
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
