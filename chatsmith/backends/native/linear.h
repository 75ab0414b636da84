/* A matrix of weights, and its product with a few rows. */

#pragma once
#include "vector.h"
#include <omp.h>

typedef struct {
    const void *data;   /* (rows, columns) */
    const float *scale; /* (rows,) or null: what a row of int8 weights is multiplied by */
    int64_t rows, columns;
    int64_t kind;   /* F32, BF16 or INT8 */
    int64_t rounds; /* may x be rounded to bf16 before it is multiplied? */
} weights;

typedef struct {
    float *y;               /* (M, N) */
    const float *x;         /* (M, K) */
    const uint16_t *halves; /* x in bf16, where that is what is multiplied */
    const void *w;          /* (N, K) */
    const float *scale;     /* (N,) or null */
    int64_t M, N, K;
    int is_int8, adds; /* to what stands in y already? */
} product;

/* Whether these weights are multiplied in tiles, and the product if so. `halves` has room for a multiple of 16 rows. */
int fits_tiles(const weights *w);
void linear_in_tiles(const product *p, const float *x, uint16_t *halves);

/* y (M, rows) = x (M, columns) W^T, or += with `adds`. The threads of a parallel region share the work and all wait
   for its end. `columns` is a multiple of 16. `halves` is room for x in bf16, of a multiple of 16
   rows. */
void linear(float *y, const float *x, uint16_t *halves, const weights *w, int64_t M, int adds);

/* The same, from outside a parallel region. Not 0 if there is no memory. */
int chatsmith_linear(float *y, const float *x, const weights *w, int64_t M, int threads);
