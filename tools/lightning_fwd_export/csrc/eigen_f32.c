/* Eigenvalues and eigenvectors of a symmetric matrix by rotations (Jacobi 1846; Golub and Van Loan, "Matrix computations", 8.5): no
 * memory of its own, and exact zeros, equal eigenvalues and one row need no case of their own. */
#include <math.h>

#include "lfwd_float.h"

#define SWEEPS 15 /* it converges quadratically: six to ten do */

/* An entry is zero when it is rounding beside its own two diagonal entries, not beside the largest one: then small eigenvalues come out
 * as exactly as large ones (Demmel and Veselic, "Jacobi's method is more accurate than QR", 1992), and float is enough. */
#define ROUNDING 1.0e-7f
#define NOTHING 1.0e-12f /* of the largest diagonal entry: where the matrix has no rank, zeros are never met */

static int is_zero(float entry, float first, float second, float largest)
{
    const float size = fabsf(entry);
    return !(size > NOTHING * largest && size > ROUNDING * sqrtf(fabsf(first)) * sqrtf(fabsf(second)));
}

static void rotate(float *x, float *y, int32_t count, float sine, float tau)
{
    for (int32_t i = 0; i < count; i++) {
        const float p = x[i], q = y[i];
        x[i] = p - sine * (q + tau * p);
        y[i] = q + sine * (p - tau * q);
    }
}

/* Make entry (p, q) zero. */
static void rotate_pair(float *a, int32_t n, int32_t p, int32_t q, float *rows)
{
    float *row_p = a + p * n, *row_q = a + q * n;
    const float apq = row_p[q], app = row_p[p], aqq = row_q[q], theta = (aqq - app) / (2.0f * apq);
    const float tangent = (theta < 0.0f ? -1.0f : 1.0f) / (fabsf(theta) + sqrtf(theta * theta + 1.0f));
    const float cosine = 1.0f / sqrtf(tangent * tangent + 1.0f), sine = tangent * cosine, tau = sine / (1.0f + cosine);
    rotate(row_p, row_q, n, sine, tau);
    row_p[p] = app - tangent * apq;
    row_q[q] = aqq + tangent * apq;
    row_p[q] = row_q[p] = 0.0f;
    for (int32_t i = 0; i < n; i++) {
        a[i * n + p] = row_p[i];
        a[i * n + q] = row_q[i];
    }
    rotate(rows + p * n, rows + q * n, n, sine, tau);
}

void lfwd_eigen_f32(float *a, int32_t n, float *rows)
{
    float largest = 0.0f;
    for (int32_t i = 0; i < n; i++) largest = fabsf(a[i * n + i]) > largest ? fabsf(a[i * n + i]) : largest;
    for (int32_t sweep = 0, rotated = 1; sweep < SWEEPS && rotated; sweep++) {
        rotated = 0;
        for (int32_t p = 0; p < n; p++)
            for (int32_t q = p + 1; q < n; q++)
                if (!is_zero(a[p * n + q], a[p * n + p], a[q * n + q], largest)) {
                    rotate_pair(a, n, p, q, rows);
                    rotated = 1;
                }
    }
}
