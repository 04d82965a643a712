/* The per-image bodies behind lfwd_conv2d_s8 (internal). */
#ifndef LFWD_CONV2D_S8_BODY_H
#define LFWD_CONV2D_S8_BODY_H
#include "lfwd_int8.h"

void lfwd_conv2d_s8_dsp(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                        const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output);
void lfwd_conv2d_s8_mve(const lfwd_conv2d_s8_params *p, const int8_t *input, const int8_t *weight, const int32_t *start,
                        const int32_t *multiplier, const int32_t *shift, void *scratch, int8_t *output);
#endif
