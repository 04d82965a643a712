/* Int8 pooling, NHWC. */
#include "lfwd_dsp.h"
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

static int8_t mean(const lfwd_pool_s8_params *p, int32_t sum, int32_t count)
{
    return (int8_t)lfwd_clamp(count == 0 ? 0 : (sum > 0 ? sum + count / 2 : sum - count / 2) / count, p->act_min, p->act_max);
}

/* Averages of one window for `channels` channels. */
static void average(const lfwd_pool_s8_params *p, window w, const int8_t *input, int8_t *output)
{
    const int32_t count = (w.y1 - w.y0) * (w.x1 - w.x0);
    int32_t c = 0;
#if LFWD_MVE
    for (; c + 4 <= p->channels; c += 4) {
        int32x4_t sum = vdupq_n_s32(0);
        for (int32_t iy = w.y0; iy < w.y1; iy++) {
            const int8_t *pixel = input + (iy * p->in_w + w.x0) * p->channels + c;
            for (int32_t k = w.x1 - w.x0; k > 0; k--, pixel += p->channels) sum = vaddq_s32(sum, vldrbq_s32(pixel));
        }
        int32_t sums[4];
        vst1q_s32(sums, sum);
        for (int32_t lane = 0; lane < 4; lane++) output[c + lane] = mean(p, sums[lane], count);
    }
#elif LFWD_DSP
    for (; c + 4 <= p->channels; c += 4) {
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (int32_t iy = w.y0; iy < w.y1; iy++) {
            const int8_t *pixel = input + (iy * p->in_w + w.x0) * p->channels + c;
            for (int32_t k = w.x1 - w.x0; k > 0; k--, pixel += p->channels) {
                const uint32_t word = lfwd_load4(pixel);
                s0 += (int8_t)word;
                s1 += (int8_t)(word >> 8);
                s2 += (int8_t)(word >> 16);
                s3 += (int8_t)(word >> 24);
            }
        }
        output[c] = mean(p, s0, count);
        output[c + 1] = mean(p, s1, count);
        output[c + 2] = mean(p, s2, count);
        output[c + 3] = mean(p, s3, count);
    }
#endif
    for (; c < p->channels; c++) {
        int32_t sum = 0;
        for (int32_t iy = w.y0; iy < w.y1; iy++)
            for (int32_t ix = w.x0; ix < w.x1; ix++) sum += input[(iy * p->in_w + ix) * p->channels + c];
        output[c] = mean(p, sum, count);
    }
}

void lfwd_avg_pool2d_s8(const lfwd_pool_s8_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t n = 0; n < p->batch; n++, input += p->in_h * p->in_w * p->channels)
        for (int32_t y = 0; y < p->out_h; y++)
            for (int32_t x = 0; x < p->out_w; x++, output += p->channels) average(p, inside(p, y, x), input, output);
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
