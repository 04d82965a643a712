/* Errors of a step in integers through the transposed weights of linear layers and convolutions. */
#include <string.h>

#include "lfwd_integer_body.h"

enum { ROWS = 64 }; /* errors scaled at a time */

void lfwd_int_linear_back(const int16_t *e, const lfwd_int_weight *w, int32_t batch, int32_t out, int32_t in, int32_t *acc)
{
    const int32_t least = lfwd_smallest(w->exponents, out);
    for (int32_t b = 0; b < batch; b++, acc += in) {
        lfwd_int_clear(acc, in);
        for (int32_t o = 0, n; o < out; o += n) {
            int16_t scaled[ROWS];
            n = out - o < ROWS ? out - o : ROWS;
            for (int32_t k = 0; k < n; k++) scaled[k] = (int16_t)lfwd_shift(*e++, w->exponents[o + k] - least);
            if (w->masters) {
                lfwd_int_back_rows(scaled, w->masters + o * in, n, in, in, acc);
                continue;
            }
            for (int32_t k = 0; k < n; k++)
                for (int32_t i = 0; scaled[k] != 0 && i < in; i++) acc[i] += scaled[k] * w->frozen[(o + k) * in + i];
        }
    }
}

void lfwd_int_linear_error(const int16_t *e, const lfwd_int_weight *w, int32_t batch, int32_t out, int32_t in, int32_t *acc)
{
    const int32_t least = lfwd_smallest(w->exponents, out);
    for (int32_t b = 0; b < batch; b++, e += in)
        for (int32_t o = 0; o < out; o++) {
            int32_t sum = 0;
            for (int32_t i = 0; i < in; i++) sum += e[i] * lfwd_int_view(w, o * in + i);
            *acc++ = lfwd_shift(sum, w->exponents[o] - least);
        }
}

/* The errors of one group that place (h, v) of the input contributed to; stride 1. */
static void window(const int16_t *e, const int8_t *exponents, int32_t least, const lfwd_int_conv_shape *s, int32_t h, int32_t v, int16_t *to)
{
    const int32_t outputs = s->out_c / s->groups, taps = s->k_h * s->k_w, plane = s->out_h * s->out_w;
    for (int32_t t = 0; t < taps; t++) {
        const int32_t i = h + s->pad_h - t / s->k_w * s->dil_h, j = v + s->pad_w - t % s->k_w * s->dil_w;
        const int32_t inside = i >= 0 && i < s->out_h && j >= 0 && j < s->out_w;
        const int16_t *from = e + i * s->out_w + j;
        for (int32_t o = 0; o < outputs; o++)
            to[lfwd_int_window_at(o, t, outputs, taps)] = (int16_t)(inside ? lfwd_shift(from[o * plane], exponents[o] - least) : 0);
    }
}

static void back_by_windows(const int16_t *e, const lfwd_int_weight *w, int32_t least, const lfwd_int_conv_shape *s, int16_t *windows,
                            int32_t *acc)
{
    const int32_t in_g = s->in_c / s->groups, out_g = s->out_c / s->groups, taps = s->k_h * s->k_w, plane = s->in_h * s->in_w;
    const int32_t size = out_g * ((taps + 1) & ~1);
    lfwd_int_clear(windows, (LFWD_INT_BACK_PLACES * size + 1) >> 1);
    for (int32_t g = 0; g < s->groups; g++)
        for (int32_t p = 0; p < plane; p += LFWD_INT_BACK_PLACES) {
            const int32_t n = plane - p < LFWD_INT_BACK_PLACES ? plane - p : LFWD_INT_BACK_PLACES;
            for (int32_t k = 0; k < n; k++)
                window(e + g * out_g * s->out_h * s->out_w, w->exponents + g * out_g, least, s, (p + k) / s->in_w, (p + k) % s->in_w,
                       windows + k * size);
            for (int32_t c = 0; c < in_g; c++) {
                int32_t sums[LFWD_INT_BACK_PLACES];
                lfwd_int_back_places(windows, size, w, (g * out_g * in_g + c) * taps, in_g * taps, out_g, taps, sums);
                memcpy(acc + (g * in_g + c) * plane + p, sums, (size_t)n * sizeof *sums);
            }
        }
}

static void scatter(const int16_t *e, const lfwd_int_weight *w, int32_t least, const lfwd_int_conv_shape *s, int32_t *acc)
{
    const int32_t in_g = s->in_c / s->groups, out_g = s->out_c / s->groups, taps = s->k_h * s->k_w, plane = s->in_h * s->in_w;
    lfwd_int_clear(acc, s->in_c * plane);
    for (int32_t o = 0; o < s->out_c; o++)
        for (int32_t i = 0; i < s->out_h; i++)
            for (int32_t j = 0; j < s->out_w; j++) {
                const int32_t scaled = lfwd_shift(*e++, w->exponents[o] - least);
                if (scaled == 0) continue;
                for (int32_t c = 0; c < in_g; c++) {
                    int32_t *to = acc + (o / out_g * in_g + c) * plane;
                    for (int32_t k = 0; k < s->k_h; k++) {
                        const int32_t h = i * s->stride_h - s->pad_h + k * s->dil_h;
                        if (h < 0 || h >= s->in_h) continue;
                        for (int32_t l = 0; l < s->k_w; l++) {
                            const int32_t v = j * s->stride_w - s->pad_w + l * s->dil_w;
                            if (v >= 0 && v < s->in_w) to[h * s->in_w + v] += scaled * lfwd_int_view(w, (o * in_g + c) * taps + k * s->k_w + l);
                        }
                    }
                }
            }
}

void lfwd_int_conv_back(const int16_t *e, const lfwd_int_weight *w, const lfwd_int_conv_shape *s, void *scratch, int32_t *acc)
{
    const int32_t least = lfwd_smallest(w->exponents, s->out_c);
    for (int32_t b = 0; b < s->batch; b++, e += s->out_c * s->out_h * s->out_w, acc += s->in_c * s->in_h * s->in_w) {
        const int32_t in_g = s->in_c / s->groups, taps = s->k_h * s->k_w; /* many inputs share a window; lanes of a gather reach 64 KB */
        if (s->stride_h == 1 && s->stride_w == 1 && in_g >= 4 && in_g * taps < 4096) back_by_windows(e, w, least, s, scratch, acc);
        else scatter(e, w, least, s, acc);
    }
}

void lfwd_int_conv_error(const int16_t *e, const lfwd_int_weight *w, const lfwd_int_conv_shape *s, int32_t *acc)
{
    const int32_t least = lfwd_smallest(w->exponents, s->out_c), in_g = s->in_c / s->groups, out_g = s->out_c / s->groups;
    const int32_t taps = s->k_h * s->k_w, plane = s->in_h * s->in_w;
    for (int32_t b = 0; b < s->batch; b++, e += s->in_c * plane)
        for (int32_t o = 0; o < s->out_c; o++)
            for (int32_t i = 0; i < s->out_h; i++)
                for (int32_t j = 0; j < s->out_w; j++) {
                    int32_t sum = 0;
                    for (int32_t c = 0; c < in_g; c++) {
                        const int16_t *from = e + (o / out_g * in_g + c) * plane;
                        for (int32_t t = 0; t < taps; t++) {
                            const int32_t h = i * s->stride_h - s->pad_h + t / s->k_w * s->dil_h;
                            const int32_t v = j * s->stride_w - s->pad_w + t % s->k_w * s->dil_w;
                            if (h >= 0 && h < s->in_h && v >= 0 && v < s->in_w)
                                sum += lfwd_int_view(w, (o * in_g + c) * taps + t) * from[h * s->in_w + v];
                        }
                    }
                    *acc++ = lfwd_shift(sum, w->exponents[o] - least);
                }
}
