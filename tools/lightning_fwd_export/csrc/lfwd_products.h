/* Matrix products behind linear layers and convolutions (internal). */
#ifndef LFWD_PRODUCTS_H
#define LFWD_PRODUCTS_H
#include <stdint.h>

/* out (m, n) = start (m) + A (m, k) B (k, n), k = outer * inner. Row i of A starts at a + i * a_row; its elements lie side by
 * side in runs of `inner`, with `gap` elements between two runs. Row k of B starts at b + k * b_row. */
typedef struct {
    const float *a;
    int32_t m, a_row, outer, inner, gap;
    const float *b;
    int32_t n, b_row;
    const float *start; /* null: zeros */
    float *out;
    int32_t out_row;
} lfwd_product;

void lfwd_product_f32(const lfwd_product *p);

/* As above with A transposed: element (i, k) at a[k * a_row + i]; k = inner (outer and gap are not read). */
void lfwd_product_transposed_f32(const lfwd_product *p);
#endif
