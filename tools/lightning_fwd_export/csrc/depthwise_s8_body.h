/* The per-image bodies behind lfwd_depthwise_conv2d_s8 (internal): as many output channels as input channels. */
#ifndef LFWD_DEPTHWISE_S8_BODY_H
#define LFWD_DEPTHWISE_S8_BODY_H
#include "lfwd_int8.h"

void lfwd_depthwise_s8_dsp(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                           const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output);
void lfwd_depthwise_s8_mve(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                           const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output);

/* Whether a window lies inside the image altogether. */
static inline int lfwd_inside(const lfwd_conv2d_s8_params *p, int32_t top, int32_t left)
{
    return top >= 0 && left >= 0 && top + (p->kernel_h - 1) * p->dilation_h < p->in_h &&
           left + (p->kernel_w - 1) * p->dilation_w < p->in_w;
}

/* Where tap (ky, kx) of a window reads: a pixel of the image, or `zeros`, a pixel of zero points. */
static inline const int8_t *lfwd_tap(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *zeros, int32_t top,
                                     int32_t left, int32_t ky, int32_t kx)
{
    const int32_t y = top + ky * p->dilation_h, x = left + kx * p->dilation_w;
    return y < 0 || y >= p->in_h || x < 0 || x >= p->in_w ? zeros : input + (y * p->in_w + x) * p->in_c;
}
#endif
