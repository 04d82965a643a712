/* The update of a convolution's weights where the planes are small: four windows at a time are columns of a matrix, as in the forward
 * pass, and every weight takes four products at once. */
#include "lfwd_conv_f32.h"

/* w (4, k) += g (4, 4) columns (k, 4) transposed. Rows beyond `high` repeat the last one, and their g is zero. */
static LFWD_APART void four_rows(float *w0, int32_t row, int32_t high, const float *columns, int32_t k, const float g[16])
{
    float *w1 = w0 + (high > 1 ? row : 0), *w2 = w1 + (high > 2 ? row : 0), *w3 = w2 + (high > 3 ? row : 0);
#if LFWD_HELIUM_FLOAT
#define FOUR_WEIGHTS(w, g)                          \
    do {                                            \
        float32x4_t v = vld1q_f32(w);               \
        v = vfmaq_n_f32(v, taps.val[0], (g)[0]);    \
        v = vfmaq_n_f32(v, taps.val[1], (g)[1]);    \
        v = vfmaq_n_f32(v, taps.val[2], (g)[2]);    \
        v = vfmaq_n_f32(v, taps.val[3], (g)[3]);    \
        vst1q_f32(w, v);                            \
        w += 4;                                     \
    } while (0)
    for (; k >= 4; k -= 4, columns += 16) {
        const float32x4x4_t taps = vld4q_f32(columns); /* one position of four weights is one vector */
        FOUR_WEIGHTS(w0, g);
        FOUR_WEIGHTS(w1, g + 4);
        FOUR_WEIGHTS(w2, g + 8);
        FOUR_WEIGHTS(w3, g + 12);
    }
#else
    const float g00 = g[0], g01 = g[1], g02 = g[2], g03 = g[3], g10 = g[4], g11 = g[5], g12 = g[6], g13 = g[7];
    const float g20 = g[8], g21 = g[9], g22 = g[10], g23 = g[11], g30 = g[12], g31 = g[13], g32 = g[14], g33 = g[15];
#define TWO_WEIGHTS(w, i)                                                       \
    LFWD_BOTH(w);                                                               \
    u0 += g##i##0 * y0, u0 += g##i##1 * y1, u0 += g##i##2 * y2, u0 += g##i##3 * y3; \
    u1 += g##i##0 * y4, u1 += g##i##1 * y5, u1 += g##i##2 * y6, u1 += g##i##3 * y7; \
    LFWD_PUT_BOTH(w);
    for (int32_t twos = k >> 1; twos != 0; twos--) {
        LFWD_OPAQUE(twos);
        LFWD_LOADED;
        LFWD_NEXT8(columns);
        TWO_WEIGHTS(w0, 0) TWO_WEIGHTS(w1, 1) TWO_WEIGHTS(w2, 2) TWO_WEIGHTS(w3, 3)
    }
    k &= 1;
#endif
    float *const rows[4] = {w0, w1, w2, w3};
    for (int32_t i = 0; i < high; i++)
        for (int32_t j = 0; j < 4 * k; j++) rows[i][j / 4] += g[4 * i + j % 4] * columns[j];
}

void lfwd_sgd_conv2d_windows_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr, float *scratch)
{
    const int32_t channels = s->in_c / s->groups, outputs = s->out_c / s->groups, pixels = s->out_h * s->out_w;
    const int32_t k = channels * s->kernel_h * s->kernel_w;
    lfwd_windows at = {s->in_h, s->in_w, s->kernel_h, s->kernel_w, s->dilation_h, s->dilation_w, 0, {0}, {0}};
    for (int32_t n = 0; n < s->batch; n++)
        for (int32_t group = 0; group < s->groups; group++, x += channels * s->in_h * s->in_w, grad += outputs * pixels)
            for (int32_t i = 0; i < pixels; i += 4) {
                const int32_t count = lfwd_next_windows(s, i, &at);
                lfwd_gather_columns_f32(x, channels, &at, scratch);
                for (int32_t o = 0; o < outputs; o += 4) {
                    const int32_t high = lfwd_least(outputs - o, 4);
                    float g[16] = {0};
                    for (int32_t r = 0; r < high; r++)
                        for (int32_t j = 0; j < count; j++) g[4 * r + j] = -lr * grad[(o + r) * pixels + i + j];
                    four_rows(state + (group * outputs + o) * k, k, high, scratch, k, g);
                }
            }
}
