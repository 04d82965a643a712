/* The float kernels as they run on a board against their plain C (built under the names plain_*) on drawn shapes: the exit code is the
 * call that differs by more than rounding or writes beyond its output, 0 if none does. SHAPES shapes from SEED on. */
#include <math.h>
#include <string.h>

#include "board.h"
#include "lfwd_float.h"

void plain_lfwd_conv2d_f32(const float *x, const float *weight, const float *bias, const lfwd_conv2d_shape *s, float *scratch, float *out);
void plain_lfwd_conv2d_grad_input_f32(const float *grad, const float *weight, const lfwd_conv2d_shape *s, float *scratch, float *out);
void plain_lfwd_sgd_conv2d_f32(float *state, const float *grad, const float *x, const lfwd_conv2d_shape *s, float lr, float decay,
                               float *scratch);
void plain_lfwd_linear_f32(const float *x, const float *weight, const float *bias, int32_t rows, int32_t in_features,
                           int32_t out_features, float *out);
void plain_lfwd_mm_f32(const float *a, const float *b, int32_t m, int32_t k, int32_t n, float *out);
void plain_lfwd_sgd_outer_f32(float *state, const float *grad, const float *x, int32_t rows, int32_t out_features, int32_t in_features,
                              float lr, float decay);

void board_init(void) {}

static uint32_t seed = SEED;
static int32_t draw(int32_t low, int32_t high)
{
    seed = seed * 1664525u + 1013904223u;
    return low + (int32_t)((seed >> 8) % (uint32_t)(high - low + 1));
}

enum { ROOM = 6000 };
static float x[ROOM], g[ROOM], w[ROOM], bias[64], a[ROOM], b[ROOM], scratch[ROOM];

static void begin(void) /* a and b are updated in place by some calls */
{
    for (int32_t k = 0; k < ROOM; k++) a[k] = b[k] = w[k];
}

static int differ(int32_t count)
{
    for (int32_t k = 0; k < count; k++)
        if (!(fabsf(a[k] - b[k]) <= 1e-5f * (1.0f + fabsf(b[k])))) return 1;
    return memcmp(a + count, w + count, sizeof w - (size_t)count * sizeof *w) || memcmp(b + count, w + count, sizeof w - (size_t)count * sizeof *w);
}

static int fits(const lfwd_conv2d_shape *s)
{
    return s->batch * s->in_c * s->in_h * s->in_w < ROOM && s->batch * s->out_c * s->out_h * s->out_w < ROOM &&
           s->out_c * s->in_c / s->groups * s->kernel_h * s->kernel_w < ROOM && lfwd_conv2d_scratch(s) < ROOM &&
           lfwd_conv2d_grad_input_scratch(s) < ROOM && lfwd_sgd_conv2d_scratch(s) < ROOM;
}

int main(void)
{
    for (int32_t k = 0; k < ROOM; k++) x[k] = (float)draw(-99, 99) * 0.01f, g[k] = (float)draw(-99, 99) * 0.01f, w[k] = (float)draw(-99, 99) * 0.01f;
    for (int32_t k = 0; k < 64; k++) bias[k] = (float)draw(-99, 99) * 0.01f;
    for (int n = 0; n < SHAPES; n++) {
        const int32_t usual = draw(0, 1), groups = draw(0, 1) ? 1 : draw(2, 9), depthwise = draw(0, 1);
        lfwd_conv2d_shape s = {draw(1, 2), groups, draw(1, 9), draw(1, 13), groups, 0, 0, 3, 3, 1, 1, draw(0, 1), draw(0, 1), 1, 1, groups};
        if (!depthwise) s.in_c *= draw(1, 9), s.out_c *= draw(1, 9);
        if (!usual) {
            s.kernel_h = draw(1, 4), s.kernel_w = draw(1, 4), s.stride_h = draw(1, 5), s.stride_w = draw(1, 3);
            s.pad_h = draw(0, 2), s.pad_w = draw(0, 2), s.dilation_h = draw(1, 2), s.dilation_w = draw(1, 2);
        }
        const int32_t h = s.in_h + 2 * s.pad_h - s.dilation_h * (s.kernel_h - 1) - 1, v = s.in_w + 2 * s.pad_w - s.dilation_w * (s.kernel_w - 1) - 1;
        s.out_h = h / s.stride_h + 1, s.out_w = v / s.stride_w + 1;
        if (h >= 0 && v >= 0 && fits(&s)) {
            begin();
            lfwd_conv2d_f32(x, w, bias, &s, scratch, a);
            plain_lfwd_conv2d_f32(x, w, bias, &s, scratch, b);
            if (differ(s.batch * s.out_c * s.out_h * s.out_w)) return 11;
            begin();
            lfwd_conv2d_grad_input_f32(g, w, &s, scratch, a);
            plain_lfwd_conv2d_grad_input_f32(g, w, &s, scratch, b);
            if (differ(s.batch * s.in_c * s.in_h * s.in_w)) return 12;
            begin();
            lfwd_sgd_conv2d_f32(a, g, x, &s, 0.01f, 0.9f, scratch);
            plain_lfwd_sgd_conv2d_f32(b, g, x, &s, 0.01f, 0.9f, scratch);
            if (differ(s.out_c * s.in_c / s.groups * s.kernel_h * s.kernel_w)) return 13;
        }
        const int32_t rows = draw(1, 9), in = draw(1, 20), out = draw(1, 20);
        begin();
        lfwd_linear_f32(x, w, bias, rows, in, out, a);
        plain_lfwd_linear_f32(x, w, bias, rows, in, out, b);
        if (differ(rows * out)) return 14;
        begin();
        lfwd_mm_f32(x, g, rows, in, out, a);
        plain_lfwd_mm_f32(x, g, rows, in, out, b);
        if (differ(rows * out)) return 15;
        begin();
        lfwd_sgd_outer_f32(a, g, x, rows, out, in, 0.01f, 0.9f);
        plain_lfwd_sgd_outer_f32(b, g, x, rows, out, in, 0.01f, 0.9f);
        if (differ(out * in)) return 16;
    }
    return 0;
}
