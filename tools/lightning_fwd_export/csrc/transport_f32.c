/* The optimal-transport map between two Gaussians from sums of a layer's inputs, and how it goes into the layer's weight: what
 * lightning_fwd.methods.alignment.transport says, in float throughout. Sums of float have lost by rounding what double could give. */
#include <math.h>
#include <string.h>

#include "lfwd_float.h"

#define LEAST 1.0e-30f

/* IEEE 754 binary16 as int16; a correlation is never infinite. */
static float from_half(int16_t half)
{
    const uint32_t bits = (uint16_t)half, exponent = bits >> 10 & 31u, fraction = bits & 1023u;
    const uint32_t word = (bits & 0x8000u) << 16 | (exponent + 112u) << 23 | fraction << 13;
    float value;
    if (exponent == 0u) return (bits & 0x8000u ? -5.9604645e-8f : 5.9604645e-8f) * (float)fraction; /* times 2^-24 */
    memcpy(&value, &word, sizeof value);
    return value;
}

static float at_least(float value, float least)
{
    return value > least ? value : least;
}

/* Of `count` values `step` apart. */
static float largest_of(const float *values, int32_t count, int32_t step)
{
    float largest = LEAST;
    for (int32_t i = 0; i < count; i++) largest = values[i * step] > largest ? values[i * step] : largest;
    return largest;
}

void lfwd_scaling_f32(const float *total, const float *squares, const int64_t *count, const float *deviation, int32_t n, float least,
                      float strength, float *out)
{
    const float samples = (float)*count;
    float largest = LEAST;
    for (int32_t i = 0; i < n; i++) {
        const float offset = total[i] / samples;
        out[i] = squares[i] / samples - offset * offset;
        largest = deviation[i] * deviation[i] > largest ? deviation[i] * deviation[i] : largest;
    }
    const float of_target = least * largest_of(out, n, 1), of_source = least * largest;
    for (int32_t i = 0; i < n; i++) {
        const float source = at_least(deviation[i] * deviation[i], of_source);
        out[i] = strength * sqrtf(source / at_least(out[i], of_target)) + (1.0f - strength);
    }
}

/* The source's covariance times a vector. */
static void times_source(const float *deviation, const int16_t *correlation, const float *x, int32_t n, float *out)
{
    for (int32_t i = 0; i < n; i++) out[i] = deviation[i] * x[i];
    for (int32_t i = 0; i < n; i++) {
        const float scaled = deviation[i] * x[i];
        float sum = 0.0f;
        for (int32_t j = i + 1; j < n; j++) {
            const float share = from_half(*correlation++);
            sum += share * (deviation[j] * x[j]);
            out[j] += share * scaled;
        }
        out[i] += sum;
    }
    for (int32_t i = 0; i < n; i++) out[i] *= deviation[i];
}

static float dot(const float *x, const float *y, int32_t n)
{
    float sum = 0.0f;
    for (int32_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* Eigenvalues on the diagonal of a become their roots, those below a share of the largest that share's. */
static void roots(float *a, int32_t n, float share, float *root)
{
    const float least = share * largest_of(a, n, n + 1);
    for (int32_t i = 0; i < n; i++) root[i] = sqrtf(at_least(a[i * n + i], least));
}

static void scale_rows(float *rows, int32_t n, const float *factor, int divide)
{
    for (int32_t k = 0; k < n; k++)
        for (int32_t i = 0; i < n; i++) rows[k * n + i] = divide ? rows[k * n + i] / factor[k] : rows[k * n + i] * factor[k];
}

static void covariance(const float *total, const float *products, float samples, int32_t n, float *out)
{
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < n; j++) out[i * n + j] = products[i * n + j] / samples - total[i] / samples * (total[j] / samples);
}

/* With the target's covariance V D V' and the source's R, T = W E^1/2 W' where W = V D^-1/2 U and D^1/2 V'RV D^1/2 = U E U'. The rows
 * that the second decomposition turns begin as D^-1/2 V', so they end as W', and two matrices are all it needs. */
void lfwd_transport_f32(const float *total, const float *products, const int64_t *count, const float *deviation,
                        const int16_t *correlation, int32_t n, float least, float strength, float *scratch, float *out)
{
    float *const rows = scratch, *const root = scratch + n * n, *const column = root + n;
    covariance(total, products, (float)*count, n, out);
    memset(rows, 0, (size_t)n * (size_t)n * sizeof *rows);
    for (int32_t i = 0; i < n; i++) rows[i * n + i] = 1.0f;
    lfwd_eigen_f32(out, n, rows);
    roots(out, n, least, root);
    for (int32_t j = 0; j < n; j++) {
        times_source(deviation, correlation, rows + j * n, n, column);
        for (int32_t i = 0; i <= j; i++) out[i * n + j] = out[j * n + i] = root[i] * root[j] * dot(rows + i * n, column, n);
    }
    scale_rows(rows, n, root, 1);
    lfwd_eigen_f32(out, n, rows);
    roots(out, n, least * least, root);
    for (int32_t k = 0; k < n; k++) root[k] = sqrtf(root[k]);
    scale_rows(rows, n, root, 0);
    memset(out, 0, (size_t)n * (size_t)n * sizeof *out);
    for (int32_t k = 0; k < n; k++)
        for (int32_t i = 0; i < n; i++)
            for (int32_t j = i; j < n; j++) out[i * n + j] += rows[k * n + i] * rows[k * n + j];
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = i; j < n; j++) out[i * n + j] = out[j * n + i] = strength * out[i * n + j] + (i == j ? 1.0f - strength : 0.0f);
}

void lfwd_fold_f32(float *weight, const float *matrix, lfwd_axis axis, float *scratch)
{
    for (int32_t o = 0; o < axis.outer; o++, weight += axis.dim * axis.inner)
        for (int32_t k = 0; k < axis.inner; k++) {
            for (int32_t i = 0; i < axis.dim; i++) scratch[i] = weight[i * axis.inner + k];
            for (int32_t j = 0; j < axis.dim; j++) weight[j * axis.inner + k] = dot(matrix + j * axis.dim, scratch, axis.dim);
        }
}

void lfwd_fold_single_f32(float *weight, const float *factors, lfwd_axis axis, int32_t groups)
{
    const int32_t outputs = axis.outer / groups;
    for (int32_t o = 0; o < axis.outer; o++)
        for (int32_t i = 0; i < axis.dim; i++)
            for (int32_t k = 0; k < axis.inner; k++) *weight++ *= factors[o / outputs * axis.dim + i];
}
