/* SPDX-License-Identifier: Apache-2.0
 *
 * What a prediction is worth, in integers (internal: a part of lfwd_adapt.c): lightning_fwd/integer/judging.py, bit for bit.
 * Losses are sums over samples of 2^-12 bits. */
#ifndef LFWD_JUDGE_INTEGER_H
#define LFWD_JUDGE_INTEGER_H
#include "lfwd_adapt.h"

typedef uint64_t lfwd_total; /* of a network: the loss of all samples */

/* Of the logits: a network is judged at that one where its loss is lowest. One that is sure of its errors would gain by becoming unsure.
 * Multiplier and exponent that make 2^-12 powers of two of a distance: 2^(k / 2), k = -12 .. 6, times log2(e). */
static const struct {
    int32_t mult, below;
} scale_of[] = {
    {23637, -7}, {16714, -8}, {23637, -8}, {16714, -9}, {23637, -9}, {16714, -10}, {23637, -10},
    {16714, -11}, {23637, -11}, {16714, -12}, {23637, -12}, {16714, -13}, {23637, -13}, {16714, -14},
    {23637, -14}, {16714, -15}, {23637, -15}, {16714, -16}, {23637, -16}};
#define SCALES ((int)(sizeof scale_of / sizeof scale_of[0]))
#define SCALE_OF_ONE 12

/* How many 2^-12 powers of two a distance of logits is worth, below 4096 powers. */
static uint32_t powers(uint32_t distance, int32_t exponent, int k)
{
    const int32_t s = exponent + scale_of[k].below + 15;
    const int64_t product = (int64_t)distance * scale_of[k].mult;
    const int64_t t = s > 0 ? (product + (((int64_t)1 << (s > 62 ? 62 : s)) >> 1)) >> (s > 62 ? 62 : s) : product << (s < -15 ? 15 : -s);
    return t > 0xFFFFFF ? 0xFFFFFFu : (uint32_t)t;
}

/* 2^-t in Q15, by a table and a line between its entries. */
static uint32_t share_of(uint32_t t)
{
    /* 2^(-i / 32) in Q15 */
    static const uint16_t table[32] = {32768, 32066, 31379, 30706, 30048, 29405, 28774, 28158, 27554, 26964, 26386,
                                       25821, 25268, 24726, 24196, 23678, 23170, 22674, 22188, 21713, 21247, 20792,
                                       20347, 19911, 19484, 19066, 18658, 18258, 17867, 17484, 17109, 16743};
    const uint32_t whole = t >> 12, line = 32768u - (((t & 127u) * 355u + 32u) >> 6);
    return ((table[(t >> 7) & 31u] * line) >> 15) >> (whole > 31u ? 31u : whole);
}

/* Of total * 2^-15, 2^15 <= total < 2^31, in 2^-12: bit by bit, by squaring. */
static uint32_t log2_of(uint32_t total)
{
    uint32_t whole = 30;
    while (!(total >> whole)) whole--;
    uint64_t m = (uint64_t)total << (30 - whole);
    uint32_t found = (whole - 15u) << 12;
    for (uint32_t bit = 12; bit-- > 0;) {
        m = (m * m) >> 30;
        if (m >> 31) {
            found += 1u << bit;
            m >>= 1;
        }
    }
    return found;
}

/* A prediction; adds its cross-entropy at each scale, or without a label its entropy, to the sums. The class predicted. */
static int32_t predict(const int8_t *input, int32_t label, uint64_t sums[SCALES])
{
    int32_t logits[LFWD_CLASSES], answer = 0;
    int8_t exponent;
    lfwd_forward(input, logits, &exponent);
    for (int32_t c = 1; c < LFWD_CLASSES; c++)
        if (logits[c] > logits[answer]) answer = c;
    const uint32_t top = (uint32_t)logits[answer];
    const int with_label = label != LFWD_UNLABELLED;
    for (int k = 0; k < (with_label ? SCALES : 1); k++) {
        const int scale = with_label ? k : SCALE_OF_ONE;
        uint32_t sum = 0;
        uint64_t mean = 0;
        for (int32_t c = 0; c < LFWD_CLASSES; c++) {
            const uint32_t t = powers(top - (uint32_t)logits[c], exponent, scale), share = share_of(t);
            sum += share;
            mean += (uint64_t)share * t;
        }
        sums[k] += log2_of(sum) + (with_label ? powers(top - (uint32_t)logits[label], exponent, scale) : (uint32_t)(mean / sum));
    }
    return answer;
}

static uint64_t total_of(uint64_t sum, uint16_t count)
{
    (void)count;
    return sum;
}

/* In 2^-16 nats, rounded: of a loss of 1 they are log(2) * 2^4 = 726817 * 2^-16. */
static lfwd_loss told(uint64_t total, uint16_t count)
{
    const uint64_t parts = (uint64_t)count << 16, nats = (total * 726817u + (parts >> 1)) / parts;
    return nats > INT32_MAX ? INT32_MAX : (lfwd_loss)nats;
}

static int is_finite(uint64_t total)
{
    (void)total;
    return 1;
}

/* By a thousandth and a little more: what is less is rounding. */
static int is_better(uint64_t now, uint64_t best, uint16_t count)
{
    return now + count + (best >> 10) < best;
}
#endif
