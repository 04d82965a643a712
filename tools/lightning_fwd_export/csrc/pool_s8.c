/* Int8 pooling, NHWC. */
#include "lfwd_requantize.h"

typedef struct {
    int32_t y0, y1, x0, x1;
} window;

static window inside(const lfwd_pool_s8_params *p, int32_t y, int32_t x)
{
    const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
    const window w = {top < 0 ? 0 : top, top + p->kernel_h < p->in_h ? top + p->kernel_h : p->in_h,
                      left < 0 ? 0 : left, left + p->kernel_w < p->in_w ? left + p->kernel_w : p->in_w};
    return w;
}

void lfwd_avg_pool2d_s8(const lfwd_pool_s8_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t n = 0; n < p->batch; n++, input += p->in_h * p->in_w * p->channels)
        for (int32_t y = 0; y < p->out_h; y++)
            for (int32_t x = 0; x < p->out_w; x++) {
                const window w = inside(p, y, x);
                const int32_t count = (w.y1 - w.y0) * (w.x1 - w.x0);
                for (int32_t c = 0; c < p->channels; c++) {
                    int32_t sum = 0;
                    for (int32_t iy = w.y0; iy < w.y1; iy++)
                        for (int32_t ix = w.x0; ix < w.x1; ix++) sum += input[(iy * p->in_w + ix) * p->channels + c];
                    const int32_t mean = count == 0 ? 0 : (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
                    *output++ = (int8_t)lfwd_clamp(mean, p->act_min, p->act_max);
                }
            }
}

void lfwd_max_pool2d_s8(const lfwd_pool_s8_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t n = 0; n < p->batch; n++, input += p->in_h * p->in_w * p->channels)
        for (int32_t y = 0; y < p->out_h; y++)
            for (int32_t x = 0; x < p->out_w; x++) {
                const window w = inside(p, y, x);
                for (int32_t c = 0; c < p->channels; c++) {
                    int32_t top = INT8_MIN;
                    for (int32_t iy = w.y0; iy < w.y1; iy++)
                        for (int32_t ix = w.x0; ix < w.x1; ix++) {
                            const int32_t value = input[(iy * p->in_w + ix) * p->channels + c];
                            top = value > top ? value : top;
                        }
                    *output++ = (int8_t)lfwd_clamp(top, p->act_min, p->act_max);
                }
            }
}
