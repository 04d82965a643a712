/* The heart of the float matrix products (internal): 4 x 4 sums that stay in registers, so that each loaded value serves
 * four products. On Helium a row of sums is one vector. */
#ifndef LFWD_BLOCK4_H
#define LFWD_BLOCK4_H
#include <stdint.h>

#include "lfwd_load.h"

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2) && !defined(LFWD_PLAIN)
#include <arm_mve.h>
#define LFWD_HELIUM_FLOAT 1
#else
#define LFWD_HELIUM_FLOAT 0
#endif

/* A counter that the compiler cannot see through. Where it knows how often a loop runs, GCC keeps a second copy of every pointer that
 * moves in it, for after the loop, and runs out of registers. */
#if defined(__GNUC__)
#define LFWD_OPAQUE(counter) __asm__("" : "+r"(counter))
#else
#define LFWD_OPAQUE(counter) (void)(counter)
#endif

/* A function of its own, so that its loops have all registers; and one that is written out wherever it is called, since its
 * arguments there are constants. */
#if defined(__GNUC__)
#define LFWD_APART __attribute__((noinline))
#define LFWD_INLINE inline __attribute__((always_inline))
#else
#define LFWD_APART
#define LFWD_INLINE inline
#endif

typedef struct {
    float value[4];
} lfwd_four; /* four neighbours, copied as one */

/* Sums c00 .. c33; row i starts at its argument. */
#define LFWD_SUMS(s0, s1, s2, s3)                                                                        \
    float c00 = s0, c01 = c00, c02 = c00, c03 = c00, c10 = s1, c11 = c10, c12 = c10, c13 = c10, c20 = s2, \
          c21 = c20, c22 = c20, c23 = c20, c30 = s3, c31 = c30, c32 = c30, c33 = c30;

/* One step of all sixteen: sum (i, j) += a_i b_j. */
#define LFWD_OUTER(a0, a1, a2, a3, b0, b1, b2, b3)                       \
    c00 += a0 * b0, c01 += a0 * b1, c02 += a0 * b2, c03 += a0 * b3;      \
    c10 += a1 * b0, c11 += a1 * b1, c12 += a1 * b2, c13 += a1 * b3;      \
    c20 += a2 * b0, c21 += a2 * b1, c22 += a2 * b2, c23 += a2 * b3;      \
    c30 += a3 * b0, c31 += a3 * b1, c32 += a3 * b2, c33 += a3 * b3;

/* The same where the factors are read one by one. */
#define LFWD_STEP(a0, a1, a2, a3, b0, b1, b2, b3)                                                            \
    do {                                                                                                     \
        const float v0 = a0, v1 = a1, v2 = a2, v3 = a3, w0_ = b0, w1_ = b1, w2_ = b2, w3_ = b3;              \
        LFWD_OUTER(v0, v1, v2, v3, w0_, w1_, w2_, w3_)                                                       \
    } while (0)

/* Two steps of row i: y0 .. y3 belong to the first, y4 .. y7 to the second; the row's own two factors come from `a`. */
#define LFWD_TWO_OF_ROW(i, a)                                                \
    LFWD_NEXT2(a);                                                           \
    c##i##0 += u0 * y0, c##i##1 += u0 * y1, c##i##2 += u0 * y2, c##i##3 += u0 * y3; \
    c##i##0 += u1 * y4, c##i##1 += u1 * y5, c##i##2 += u1 * y6, c##i##3 += u1 * y7;

/* The same where column j's two factors are neighbours: y0, y1 of the first column, y2, y3 of the second. */
#define LFWD_TWO_OF_PAIRS(i, a)                                              \
    LFWD_NEXT2(a);                                                           \
    c##i##0 += u0 * y0, c##i##1 += u0 * y2, c##i##2 += u0 * y4, c##i##3 += u0 * y6; \
    c##i##0 += u1 * y1, c##i##1 += u1 * y3, c##i##2 += u1 * y5, c##i##3 += u1 * y7;
#define LFWD_TWO_STEPS_OF_PAIRS(a0, a1, a2, a3, b0, b1, b2, b3)                                         \
    do {                                                                                                \
        LFWD_LOADED;                                                                                    \
        LFWD_NEXT_PAIR0(b0);                                                                            \
        LFWD_NEXT_PAIR1(b1);                                                                            \
        LFWD_NEXT_PAIR2(b2);                                                                            \
        LFWD_NEXT_PAIR3(b3);                                                                            \
        LFWD_TWO_OF_PAIRS(0, a0) LFWD_TWO_OF_PAIRS(1, a1) LFWD_TWO_OF_PAIRS(2, a2) LFWD_TWO_OF_PAIRS(3, a3) \
    } while (0)

/* For each row in turn: `row(destination, four sums)`; `to` moves along. */
#define LFWD_ROWS(row, to, to_row)                        \
    row(to, c00, c01, c02, c03) to += (to_row);           \
    row(to, c10, c11, c12, c13) to += (to_row);           \
    row(to, c20, c21, c22, c23) to += (to_row);           \
    row(to, c30, c31, c32, c33)

/* Takes lr times the sums from four rows of four neighbours; `to` moves along. */
#define LFWD_UPDATE_ROW(to, to_row, lr, s0, s1, s2, s3)                  \
    LFWD_HIGH4(to);                                                      \
    y4 -= lr * s0, y5 -= lr * s1, y6 -= lr * s2, y7 -= lr * s3;          \
    LFWD_PUT_HIGH4(to);                                                  \
    to += (to_row) - 4;
#define LFWD_UPDATE_ROWS(to, to_row, lr)                                 \
    do {                                                                 \
        LFWD_LOADED;                                                     \
        LFWD_UPDATE_ROW(to, to_row, lr, c00, c01, c02, c03)              \
        LFWD_UPDATE_ROW(to, to_row, lr, c10, c11, c12, c13)              \
        LFWD_UPDATE_ROW(to, to_row, lr, c20, c21, c22, c23)              \
        LFWD_UPDATE_ROW(to, to_row, lr, c30, c31, c32, c33)              \
        (void)y0, (void)y1, (void)y2, (void)y3, (void)u0, (void)u1;      \
    } while (0)

static inline int32_t lfwd_least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* w += s x for `count` values, those of x `step` apart. */
static inline void lfwd_add_multiple(float *w, const float *x, int32_t step, int32_t count, float s)
{
    if (step == 1)
        for (; count >= 4; count -= 4) {
            LFWD_LOADED;
            LFWD_NEXT_LOW4(x);
            LFWD_HIGH4(w);
            y4 += s * y0, y5 += s * y1, y6 += s * y2, y7 += s * y3;
            LFWD_PUT_HIGH4(w);
            (void)u0, (void)u1;
        }
    for (; count > 0; count--, x += step) *w++ += s * *x;
}

/* Pointers to three more rows after name0; where fewer than four are `left` the last one repeats, and its sums are thrown away. */
#define LFWD_THREE_MORE(name, step, left)                                                                \
    const float *name##1 = name##0 + ((left) > 1 ? (step) : 0), *name##2 = name##1 + ((left) > 2 ? (step) : 0), \
                *name##3 = name##2 + ((left) > 3 ? (step) : 0);
#define LFWD_FOUR(name, first, step, left) \
    const float *name##0 = (first);        \
    LFWD_THREE_MORE(name, step, left)
#endif
