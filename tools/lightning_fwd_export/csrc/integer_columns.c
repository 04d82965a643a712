/* Updates of master weights in integers: error times activation, summed over the batch, rounded once per weight; the gradient is never stored.
 *
 * A few weights per output at a time: what they met in the input is unfolded once, multiplied with the error of every output, and written.
 */
#include "lfwd_integer_body.h"

enum { COLUMNS = LFWD_INT_COLUMNS, PLACES = LFWD_INT_PLACES };

typedef struct {
    int16_t *target;    /* masters, or velocities where rate is there */
    const int32_t *rate;
    const int64_t *index; /* inputs that learn, 0: all */
    int32_t row, taps;  /* entries of a row of target; of each input */
    uint32_t key, key1; /* draws of rows: of changes, and of velocities */
    uint16_t *line, *line1;
} goal;

static int32_t shift_of_row(const lfwd_int_update *u, int32_t row, int32_t more)
{
    return *u->c_exponent + *u->x_exponent - (u->exponents[row] + 8) - more;
}

static goal goal_of(int16_t *target, const lfwd_int_update *u, const int32_t *rate, const int64_t *index, int32_t columns, int32_t taps,
                    int32_t width, uint16_t *scratch)
{
    const uint32_t key = lfwd_draw_key(u->counter, u->stream), key1 = lfwd_draw_key(u->counter, u->stream + 1u);
    const goal g = {target, rate, index, columns * taps, taps, lfwd_draw_rows(key), lfwd_draw_rows(key1), scratch, scratch + width};
    lfwd_draw_line(key, width, g.line);
    if (rate) lfwd_draw_line(key1, width, g.line1);
    return g;
}

static uint32_t draw_of_row(uint32_t key, int32_t o)
{
    return lfwd_hash32(key + (uint32_t)o) & 0xFFFFu;
}

/* As far as the weights lie side by side. */
static __attribute__((noinline)) void write_runs(const goal *g, int16_t *target, int32_t first, int32_t n, const int32_t *sums, int32_t s, uint32_t row)
{
    for (int32_t k = 0, run; k < n; k += run) {
        const int32_t at = (first + k) / g->taps, tap = (first + k) % g->taps;
        run = g->taps - tap;
        for (int32_t j = at + 1; run < n - k && g->index[j] == g->index[j - 1] + 1; j++) run += g->taps;
        run = run < n - k ? run : n - k;
        lfwd_int_write_row(target + (int32_t)g->index[at] * g->taps + tap, sums + k, run, s, g->line + first + k, row);
    }
}

/* Sums of columns first .. first + n of row o. */
static void write_sums(const goal *g, const lfwd_int_update *u, int32_t o, int32_t first, int32_t n, const int32_t *sums)
{
    int16_t *const target = g->target + o * g->row;
    const int32_t s = shift_of_row(u, o, g->rate ? LFWD_FRACTION : 0);
    const uint32_t row = draw_of_row(g->key, o);
    if (g->rate)
        lfwd_int_accelerate_row(target + first, sums, n, s, g->rate[2], g->line + first, row, g->line1 + first, draw_of_row(g->key1, o));
    else if (g->index) write_runs(g, target, first, n, sums, s, row);
    else lfwd_int_write_row(target + first, sums, n, s, g->line + first, row);
}

/* Where unfolded columns and sums lie behind the draws, aligned. */
static int16_t *behind(const goal *g, int32_t width)
{
    return (int16_t *)(void *)(g->line + (((g->rate ? 2 : 1) * width + 1) & ~1));
}

/* One sample: rows of products. */
static void outer_of_one(const goal *g, const lfwd_int_update *u, int32_t out, int32_t in)
{
    for (int32_t o = 0; o < out; o++) {
        if (g->rate || g->index) {
            const int32_t c = u->c[o];
            for (int32_t i = 0, n; i < in; i += n) {
                int32_t sums[PLACES + 8];
                n = in - i < PLACES ? in - i : PLACES;
                for (int32_t k = 0; k < n; k++) sums[k] = c * u->x[i + k];
                write_sums(g, u, o, i, n, sums);
            }
        } else {
            lfwd_int_outer_row(g->target + o * g->row, u->x, in, u->c[o], shift_of_row(u, o, 0), g->line, draw_of_row(g->key, o));
        }
    }
}

static void outer(const goal *g, const lfwd_int_update *u, int32_t batch, int32_t out, int32_t in)
{
    if (batch == 1) {
        outer_of_one(g, u, out, in);
        return;
    }
    int16_t *const columns = behind(g, in);
    int16_t c[2 * PLACES];
    int32_t *const sums = (int32_t *)(void *)(columns + COLUMNS * PLACES);
    lfwd_int_clear(columns, COLUMNS * PLACES / 2);
    for (int32_t i = 0; i < in; i += COLUMNS) {
        const int32_t n = in - i < COLUMNS ? in - i : COLUMNS;
        for (int32_t b = 0; b < batch; b += PLACES) {
            const int32_t m = batch - b < PLACES ? batch - b : PLACES;
            for (int32_t k = 0; k < n; k++)
                for (int32_t j = 0; j < m; j++) columns[k * PLACES + j] = u->x[(b + j) * in + i + k];
            for (int32_t o = 0; o < out; o += 2) {
                const int16_t *from = u->c + b * out + o;
                for (int32_t j = 0; j < m; j++, from += out) c[j] = from[0], c[PLACES + j] = o + 1 < out ? from[1] : (int16_t)0;
                lfwd_int_products(c, c + PLACES, columns, m, (n + 2) / 3 * 3, b == 0, sums + o * COLUMNS, sums + (o + 1) * COLUMNS);
            }
        }
        for (int32_t o = 0; o < out; o++) write_sums(g, u, o, i, n, sums + o * COLUMNS);
    }
}

/* What column `at` (input channel and tap of its group) met in places from .. from + m of one image. */
static void unfold(const int8_t *x, const lfwd_int_conv_shape *s, int32_t at, int32_t from, int32_t m, int16_t *column)
{
    const int32_t taps = s->k_h * s->k_w, tap = at % taps;
    const int32_t down = tap / s->k_w * s->dil_h - s->pad_h, v0 = tap % s->k_w * s->dil_w - s->pad_w;
    const int8_t *image = x + at / taps * s->in_h * s->in_w;
    int32_t first = 0, last = s->out_w; /* columns of the output whose tap lies in the image */
    while (first < last && first * s->stride_w + v0 < 0) first++;
    while (last > first && (last - 1) * s->stride_w + v0 >= s->in_w) last--;
    if (v0 == 0 && s->stride_h == 1 && s->stride_w == 1 && s->in_w == s->out_w) { /* rows follow each other in both */
        const int32_t low = from > -down * s->in_w ? from : -down * s->in_w, top = (s->in_h - down) * s->in_w, high = from + m < top ? from + m : top;
        if (high - low < m) lfwd_int_clear(column, (m + 1) >> 1);
        if (high > low) lfwd_int_widen(image + down * s->in_w + low, high - low, column + low - from);
        return;
    }
    lfwd_int_clear(column, (m + 1) >> 1);
    for (int32_t i = from / s->out_w, j = from % s->out_w, h = i * s->stride_h + down; m > 0; h += s->stride_h) {
        const int32_t n = s->out_w - j < m ? s->out_w - j : m, low = first > j ? first : j, high = last < j + n ? last : j + n;
        if (h >= 0 && h < s->in_h) {
            const int8_t *pixel = image + h * s->in_w + low * s->stride_w + v0;
            if (s->stride_w == 1) lfwd_int_widen(pixel, high - low, column + low - j);
            else
                for (int32_t k = low; k < high; k++, pixel += s->stride_w) column[k - j] = *pixel;
        }
        m -= n, column += n, j = 0;
    }
}

/* Few outputs per input (depthwise): nothing is gained by unfolding. */
static int32_t direct_sum(const lfwd_int_update *u, const lfwd_int_conv_shape *s, int32_t o, int32_t channel, int32_t tap)
{
    const int32_t down = tap / s->k_w * s->dil_h - s->pad_h, v0 = tap % s->k_w * s->dil_w - s->pad_w;
    int32_t first = 0, last = s->out_w, sum = 0;
    while (first < last && first * s->stride_w + v0 < 0) first++;
    while (last > first && (last - 1) * s->stride_w + v0 >= s->in_w) last--;
    for (int32_t b = 0; b < s->batch; b++)
        for (int32_t i = 0; i < s->out_h; i++) {
            const int32_t h = i * s->stride_h + down;
            if (h < 0 || h >= s->in_h) continue;
            const int16_t *e = u->c + ((b * s->out_c + o) * s->out_h + i) * s->out_w;
            const int8_t *x = u->x + ((b * s->in_c + channel) * s->in_h + h) * s->in_w + v0;
            for (int32_t j = first; j < last; j++) sum += e[j] * x[j * s->stride_w];
        }
    return sum;
}

static void direct(const goal *g, const lfwd_int_update *u, const lfwd_int_conv_shape *s)
{
    const int32_t in_g = s->in_c / s->groups, out_g = s->out_c / s->groups, width = in_g * g->taps;
    for (int32_t o = 0; o < s->out_c; o++)
        for (int32_t at = 0; at < width; at += COLUMNS) {
            int32_t sums[COLUMNS + 8] = {0};
            const int32_t n = width - at < COLUMNS ? width - at : COLUMNS;
            for (int32_t k = 0; k < n; k++) sums[k] = direct_sum(u, s, o, o / out_g * in_g + (at + k) / g->taps, (at + k) % g->taps);
            write_sums(g, u, o, at, n, sums);
        }
}

static void conv(const goal *g, const lfwd_int_update *u, const lfwd_int_conv_shape *s)
{
    const int32_t in_g = s->in_c / s->groups, out_g = s->out_c / s->groups, width = in_g * g->taps, plane = s->out_h * s->out_w;
    if (out_g < 4) {
        direct(g, u, s);
        return;
    }
    int16_t *const columns = behind(g, width);
    int32_t *const sums = (int32_t *)(void *)(columns + COLUMNS * PLACES);
    lfwd_int_clear(columns, COLUMNS * PLACES / 2);
    for (int32_t group = 0; group < s->groups; group++)
        for (int32_t at = 0; at < width; at += COLUMNS) {
            const int32_t n = width - at < COLUMNS ? width - at : COLUMNS;
            for (int32_t b = 0; b < s->batch; b++) {
                const int8_t *x = u->x + (b * s->in_c + group * in_g) * s->in_h * s->in_w;
                for (int32_t from = 0; from < plane; from += PLACES) {
                    const int32_t m = plane - from < PLACES ? plane - from : PLACES;
                    for (int32_t k = 0; k < n; k++) unfold(x, s, at + k, from, m, columns + k * PLACES);
                    const int16_t *c = u->c + (b * s->out_c + group * out_g) * plane + from;
                    for (int32_t o = 0; o < out_g; o += 2, c += 2 * plane)
                        lfwd_int_products(c, o + 1 < out_g ? c + plane : c, columns, m, (n + 2) / 3 * 3, b == 0 && from == 0, sums + o * COLUMNS,
                                          sums + (o + 1) * COLUMNS);
                }
            }
            for (int32_t o = 0; o < out_g; o++) write_sums(g, u, group * out_g + o, at, n, sums + o * COLUMNS);
        }
}

void lfwd_int_outer_update(int16_t *masters, const lfwd_int_update *u, int32_t batch, int32_t out, int32_t in, const int64_t *index,
                           int32_t columns, uint16_t *scratch)
{
    const goal g = goal_of(masters, u, 0, index, columns, 1, in, scratch);
    outer(&g, u, batch, out, in);
}

void lfwd_int_outer_velocity(int16_t *velocity, const lfwd_int_update *u, const int32_t *rate, int32_t batch, int32_t out, int32_t in,
                             uint16_t *scratch)
{
    const goal g = goal_of(velocity, u, rate, 0, in, 1, in, scratch);
    outer(&g, u, batch, out, in);
}

void lfwd_int_conv_update(int16_t *masters, const lfwd_int_update *u, const lfwd_int_conv_shape *s, const int64_t *index, int32_t columns,
                          uint16_t *scratch)
{
    const goal g = goal_of(masters, u, 0, index, columns, s->k_h * s->k_w, s->in_c / s->groups * s->k_h * s->k_w, scratch);
    conv(&g, u, s);
}

void lfwd_int_conv_velocity(int16_t *velocity, const lfwd_int_update *u, const int32_t *rate, const lfwd_int_conv_shape *s,
                            uint16_t *scratch)
{
    const int32_t in_g = s->in_c / s->groups, taps = s->k_h * s->k_w;
    const goal g = goal_of(velocity, u, rate, 0, in_g, taps, in_g * taps, scratch);
    conv(&g, u, s);
}
