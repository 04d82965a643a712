/* The heart of the float matrix products (internal): 4 x 4 sums that stay in registers, so that each loaded value serves
 * four products. On Helium a row of sums is one vector. */
#ifndef LFWD_BLOCK4_H
#define LFWD_BLOCK4_H
#include <stdint.h>

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
#define LFWD_STEP(a0, a1, a2, a3, b0, b1, b2, b3)                                                            \
    do {                                                                                                     \
        const float y0 = b0, y1 = b1, y2 = b2, y3 = b3;                                                      \
        float v = a0;                                                                                        \
        c00 += v * y0, c01 += v * y1, c02 += v * y2, c03 += v * y3;                                          \
        v = a1;                                                                                              \
        c10 += v * y0, c11 += v * y1, c12 += v * y2, c13 += v * y3;                                          \
        v = a2;                                                                                              \
        c20 += v * y0, c21 += v * y1, c22 += v * y2, c23 += v * y3;                                          \
        v = a3;                                                                                              \
        c30 += v * y0, c31 += v * y1, c32 += v * y2, c33 += v * y3;                                          \
    } while (0)

/* For each row in turn: `row(destination, four sums)`; `to` moves along. */
#define LFWD_ROWS(row, to, to_row)                        \
    row(to, c00, c01, c02, c03) to += (to_row);           \
    row(to, c10, c11, c12, c13) to += (to_row);           \
    row(to, c20, c21, c22, c23) to += (to_row);           \
    row(to, c30, c31, c32, c33)

static inline int32_t lfwd_least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Pointers to three more rows after name0; where fewer than four are `left` the last one repeats, and its sums are thrown away. */
#define LFWD_THREE_MORE(name, step, left)                                                                \
    const float *name##1 = name##0 + ((left) > 1 ? (step) : 0), *name##2 = name##1 + ((left) > 2 ? (step) : 0), \
                *name##3 = name##2 + ((left) > 3 ? (step) : 0);
#define LFWD_FOUR(name, first, step, left) \
    const float *name##0 = (first);        \
    LFWD_THREE_MORE(name, step, left)
#endif
