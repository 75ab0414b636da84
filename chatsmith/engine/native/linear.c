/* y = x W^T for few rows of x: what decoding does all day.

   With one row every weight is used once, so the time is that of reading W; with sixteen it is still mostly that. A
   library's matrix product, made for large matrices, reads W at half the memory's speed or less here. This one
   streams W: panels of four rows, the panel after the next asked for in advance, bf16 and int8 widened to float32
   in registers (one row of x) or once a panel, into the first-level cache (several).

   Each output is summed in one order, whatever the number of rows and threads: a row's result does not depend on
   the batch it is in. */

#include "linear.h"

#define PANEL 4    /* rows of W at a time */
#define AHEAD 16   /* how far in advance memory is asked for: so many rows of bytes, a quarter as many of float32 */
#define DEPTH 1024 /* columns at a time: a panel of them is 16 KiB of float32, half a first-level cache */
#define ROWS 3     /* most rows of x at a time: 4 x 3 sums fit into 16 registers */

typedef struct {
    float *y;           /* (M, N) */
    const float *x;     /* (M, K) */
    const void *w;      /* (N, K) */
    const float *scale; /* (N,) or null */
    int64_t M, N, K;
    int adds; /* to what stands in y already? */
} product;

INLINE void put(const product *p, float *y, vec sum, int64_t n, int64_t k0) {
    float s = total(sum) * (p->scale ? p->scale[n] : 1.0f);
    *y = k0 || p->adds ? *y + s : s;
}

/* Sums of `num` rows of W, from n on, with one row of x, over columns [k0, k0 + depth). */
#define DEFINE_ONE_ROW(TYPE, NAME)                                                                      \
    INLINE void one_row_##NAME(const product *p, int64_t n, int num, int64_t k0, int64_t depth) {      \
        const TYPE *w = (const TYPE *)p->w + n * p->K + k0;                                             \
        vec sum[PANEL] = {0};                                                                           \
        for (int64_t k = 0; k < depth; k += LANES) {                                                    \
            vec x = load_f32(p->x + k0 + k);                                                            \
            for (int r = 0; r < num; r++) {                                                             \
                __builtin_prefetch(w + (r + AHEAD / (int)sizeof(TYPE)) * p->K + k);                                         \
                sum[r] += x * load_##NAME(w + r * p->K + k);                                            \
            }                                                                                           \
        }                                                                                               \
        for (int r = 0; r < num; r++) put(p, p->y + n + r, sum[r], n + r, k0);                          \
    }

/* The same for `num_x` rows of x, from m on; the panel of W lies at `panel`, `stride` floats a row. */
INLINE void tile(const product *p, const float *panel, int64_t stride, int64_t n, int num, int64_t m, int num_x,
                 int64_t k0, int64_t depth) {
    vec sum[ROWS][PANEL] = {0};
    for (int64_t k = 0; k < depth; k += LANES) {
        vec x[ROWS];
        for (int i = 0; i < num_x; i++) x[i] = load_f32(p->x + (m + i) * p->K + k0 + k);
        for (int r = 0; r < num; r++) {
            vec w = load_f32(panel + r * stride + k);
            for (int i = 0; i < num_x; i++) sum[i][r] += x[i] * w;
        }
    }
    for (int i = 0; i < num_x; i++)
        for (int r = 0; r < num; r++) put(p, p->y + (m + i) * p->N + n + r, sum[i][r], n + r, k0);
}

/* All rows of x, in tiles of nearly equal height: the number of sums a tile keeps must be known when compiling. */
INLINE void tiles(const product *p, const float *panel, int64_t stride, int64_t n, int num, int64_t k0, int64_t depth) {
    int64_t left = (p->M + ROWS - 1) / ROWS;
    for (int64_t m = 0; left > 0; left--) {
        int64_t height = (p->M - m + left - 1) / left;
        if (height == 3) tile(p, panel, stride, n, num, m, 3, k0, depth);
        else if (height == 2) tile(p, panel, stride, n, num, m, 2, k0, depth);
        else tile(p, panel, stride, n, num, m, 1, k0, depth);
        m += height;
    }
}

#define DEFINE_ROWS(TYPE, NAME, IS_STORED_WIDE)                                                         \
    DEFINE_ONE_ROW(TYPE, NAME)                                                                          \
    INLINE void panel_##NAME(const product *p, int64_t n, int num, int64_t k0, int64_t depth) {        \
        if (p->M == 1) {                                                                                \
            one_row_##NAME(p, n, num, k0, depth);                                                       \
            return;                                                                                     \
        }                                                                                               \
        const TYPE *w = (const TYPE *)p->w + n * p->K + k0;                                             \
        if (IS_STORED_WIDE) {                                                                           \
            tiles(p, (const float *)w, p->K, n, num, k0, depth);                                        \
            return;                                                                                     \
        }                                                                                               \
        float wide[PANEL * DEPTH] __attribute__((aligned(64)));                                         \
        for (int r = 0; r < num; r++)                                                                   \
            for (int64_t k = 0; k < depth; k += LANES) {                                                \
                __builtin_prefetch(w + (r + AHEAD / (int)sizeof(TYPE)) * p->K + k);                                         \
                vec v = load_##NAME(w + r * p->K + k);                                                  \
                memcpy(wide + r * DEPTH + k, &v, sizeof v);                                             \
            }                                                                                           \
        tiles(p, wide, DEPTH, n, num, k0, depth);                                                       \
    }                                                                                                   \
    static void rows_##NAME(const product *p, int64_t start, int64_t end) {                             \
        for (int64_t n = start; n < end; n += PANEL)                                                    \
            for (int64_t k0 = 0; k0 < p->K; k0 += DEPTH) {                                              \
                int64_t depth = p->K - k0 < DEPTH ? p->K - k0 : DEPTH;                                  \
                if (end - n >= PANEL) panel_##NAME(p, n, PANEL, k0, depth);                             \
                else for (int64_t one = n; one < end; one++) panel_##NAME(p, one, 1, k0, depth);        \
            }                                                                                           \
    }

DEFINE_ROWS(float, f32, 1)
DEFINE_ROWS(uint16_t, bf16, 0)
DEFINE_ROWS(int8_t, int8, 0)

void linear(float *y, const float *x, const weights *w, int64_t M, int adds) {
    product p = {y, x, w->data, w->scale, M, w->rows, w->columns, adds};
    /* One row of x is bound by memory, which likes long stretches; several by arithmetic, where a core that is held up
       should leave its parts to the others. */
    int64_t panels = (p.N + PANEL - 1) / PANEL, parts = (M == 1 ? 2 : 8) * omp_get_num_threads();
    int64_t share = (panels + parts - 1) / parts * PANEL;
#pragma omp for schedule(dynamic)
    for (int64_t start = 0; start < p.N; start += share) {
        int64_t end = start + share < p.N ? start + share : p.N;
        if (w->kind == F32) rows_f32(&p, start, end);
        else if (w->kind == BF16) rows_bf16(&p, start, end);
        else rows_int8(&p, start, end);
    }
}

void chatsmith_linear(float *y, const float *x, const weights *w, int64_t M, int threads) {
#pragma omp parallel num_threads(threads)
    linear(y, x, w, M, 0);
}
