/* y = x W^T for few rows of x: what decoding does all day.

   With one row every weight is used once, so the time is that of reading W; with sixteen it is still mostly that. A
   library's matrix product, made for large matrices, reads W at half the memory's speed or less here. This one
   streams W: panels of four rows, the panel after the next asked for in advance.

   Weights stored as bf16 or int8 are widened to float32: in registers (one row of x) or once a panel, into the
   first-level cache (several). Where x may be rounded and the processor multiplies bf16, they are multiplied as bf16
   instead, which an int8 number is exactly; sums are float32 all the same.

   Each output is summed in one order, whatever the number of rows and threads: a row's result does not depend on
   the batch it is in. (In tiles, see tiles.c, bf16 is summed in another order: there it does, in its last digits.) */

#include "linear.h"
#include <stdlib.h>

#define PANEL 4    /* rows of W at a time */
#define AHEAD 16   /* how far in advance memory is asked for: so many rows of bytes, a quarter as many of float32 */
#define DEPTH 1024 /* columns at a time: a panel of them is 16 KiB of float32, half a first-level cache */
#define STRETCH 4096 /* how far in advance one row of x asks for bf16 */
/* Rows of x from which tiles are as fast (and 2 to 4 times as fast from 16 on); tiles sum in another order. */
static int64_t fewest_tiled = 5;

/* From now on tiles for any number of rows: then that number changes no sum. */
void chatsmith_tile_always(void) { fewest_tiled = 1; }

#if LANES == 16
#define ROWS 6 /* most rows of x at a time: 6 x 4 sums fit into the 32 registers of AVX-512, */
#else
#define ROWS 3 /* 3 x 4 into 16 */
#endif

/* What `num` rows of W, from n on, give for row m of x: stored, or added to what stands there. */
INLINE void put(const product *p, const vec *sum, int64_t n, int num, int64_t m, int64_t k0) {
    quad found = num == PANEL ? totals(sum[0], sum[1], sum[2], sum[3]) : (quad){total(sum[0])}, old = {0};
    float *y = p->y + m * p->N + n;
    if (p->scale) {
        quad scale;
        memcpy(&scale, p->scale + n, num * sizeof *y);
        found *= scale;
    }
    if (k0 || p->adds) memcpy(&old, y, num * sizeof *y);
    found += old;
    memcpy(y, &found, num * sizeof *y);
}

/* All rows of x in tiles of nearly equal height, by a function of (..., first row, height): how many sums a tile keeps
   must be known when compiling. */
#define EACH_TILE(TILE, ...)                                                                            \
    for (int64_t m = 0, left = (p->M + ROWS - 1) / ROWS, height; left > 0; left--, m += height) {       \
        height = (p->M - m + left - 1) / left;                                                          \
        switch (height) {                                                                               \
        case 1: TILE(__VA_ARGS__, m, 1); break;                                                         \
        case 2: TILE(__VA_ARGS__, m, 2); break;                                                         \
        case 3: TILE(__VA_ARGS__, m, 3); break;                                                         \
        case 4: TILE(__VA_ARGS__, m, ROWS < 4 ? ROWS : 4); break;                                       \
        case 5: TILE(__VA_ARGS__, m, ROWS < 5 ? ROWS : 5); break;                                       \
        default: TILE(__VA_ARGS__, m, ROWS);                                                            \
        }                                                                                               \
    }

/* Sums of `num` rows of W, from n on, with `num_x` rows of x, from m on, over columns [k0, k0 + depth). The panel of W
   lies at `panel`, `stride` floats a row. */
INLINE void tile(const product *p, const float *panel, int64_t stride, int64_t n, int num, int64_t k0, int64_t depth,
                 int64_t m, int num_x) {
    vec sum[ROWS][PANEL] = {0};
    for (int64_t k = 0; k < depth; k += LANES) {
        vec x[ROWS];
        for (int i = 0; i < num_x; i++) x[i] = load_f32(p->x + (m + i) * p->K + k0 + k);
        for (int r = 0; r < num; r++) {
            vec w = load_f32(panel + r * stride + k);
            for (int i = 0; i < num_x; i++) sum[i][r] += x[i] * w;
        }
    }
    for (int i = 0; i < num_x; i++) put(p, sum[i], n, num, m + i, k0);
}

/* The function that does a panel of `num` rows of W, of numbers of one type. */
#define DEFINE_PANEL(TYPE, NAME, IS_STORED_WIDE)                                                        \
    INLINE void panel_##NAME(const product *p, int64_t n, int num, int64_t k0, int64_t depth) {        \
        const TYPE *w = (const TYPE *)p->w + n * p->K + k0;                                             \
        if (p->M == 1) {                                                                                \
            vec sum[PANEL] = {0};                                                                       \
            for (int64_t k = 0; k < depth; k += LANES) {                                                \
                vec x = load_f32(p->x + k0 + k);                                                        \
                for (int r = 0; r < num; r++) {                                                         \
                    __builtin_prefetch(w + (r + AHEAD / (int)sizeof(TYPE)) * p->K + k);                 \
                    sum[r] += x * load_##NAME(w + r * p->K + k);                                        \
                }                                                                                       \
            }                                                                                           \
            put(p, sum, n, num, 0, k0);                                                                 \
            return;                                                                                     \
        }                                                                                               \
        if (IS_STORED_WIDE) {                                                                           \
            EACH_TILE(tile, p, (const float *)w, p->K, n, num, k0, depth)                               \
            return;                                                                                     \
        }                                                                                               \
        float wide[PANEL * DEPTH] __attribute__((aligned(64)));                                         \
        for (int r = 0; r < num; r++)                                                                   \
            for (int64_t k = 0; k < depth; k += LANES) {                                                \
                __builtin_prefetch(w + (r + AHEAD / (int)sizeof(TYPE)) * p->K + k);                     \
                vec v = load_##NAME(w + r * p->K + k);                                                  \
                memcpy(wide + r * DEPTH + k, &v, sizeof v);                                             \
            }                                                                                           \
        EACH_TILE(tile, p, wide, DEPTH, n, num, k0, depth)                                              \
    }

DEFINE_PANEL(float, f32, 1)
DEFINE_PANEL(uint16_t, bf16, 0)
DEFINE_PANEL(int8_t, int8, 0)

#if defined(MULTIPLIES_BF16)

/* As `tile`, in bf16. The first tile of a panel that lies in memory asks for what comes `ahead` of it. K is a multiple
   of LANES, so the last vector may be half full. */
INLINE void tile_halves(const product *p, const uint16_t *panel, int64_t stride, int64_t ahead, int64_t n, int num,
                        int64_t k0, int64_t depth, int64_t m, int num_x) {
    vec sum[ROWS][PANEL] = {0};
    const uint16_t *halves = p->halves + m * p->K + k0;
    int64_t k = 0;
    for (; k + HALVES <= depth; k += HALVES) {
        __m512i x[ROWS];
        for (int i = 0; i < num_x; i++) x[i] = _mm512_loadu_si512(halves + i * p->K + k);
        for (int r = 0; r < num; r++) {
            if (m == 0) __builtin_prefetch(panel + r * stride + k + ahead);
            __m512i w = _mm512_loadu_si512(panel + r * stride + k);
            for (int i = 0; i < num_x; i++) sum[i][r] = add_products(sum[i][r], x[i], w);
        }
    }
    if (k < depth)
        for (int r = 0; r < num; r++) {
            __m512i w = _mm512_maskz_loadu_epi16(0xffff, panel + r * stride + k);
            for (int i = 0; i < num_x; i++)
                sum[i][r] = add_products(sum[i][r], _mm512_maskz_loadu_epi16(0xffff, halves + i * p->K + k), w);
        }
    for (int i = 0; i < num_x; i++) put(p, sum[i], n, num, m + i, k0);
}

/* One row of x with one row of W. */
INLINE void sum_halves(vec *sum, const uint16_t *x, const uint16_t *w, int64_t depth) {
    int64_t k = 0;
    for (; k + HALVES <= depth; k += HALVES) {
        __builtin_prefetch(w + k + STRETCH);
        *sum = add_products(*sum, _mm512_loadu_si512(x + k), _mm512_loadu_si512(w + k));
    }
    if (k < depth)
        *sum = add_products(*sum, _mm512_maskz_loadu_epi16(0xffff, x + k), _mm512_maskz_loadu_epi16(0xffff, w + k));
}

INLINE void panel_bf16_halves(const product *p, int64_t n, int num, int64_t k0, int64_t depth) {
    const uint16_t *w = (const uint16_t *)p->w + n * p->K + k0;
    if (p->M == 1) { /* row after row: one stretch of memory instead of four */
        vec sum[PANEL] = {0};
        for (int r = 0; r < num; r++) sum_halves(sum + r, p->halves + k0, w + r * p->K, depth);
        put(p, sum, n, num, 0, k0);
        return;
    }
    EACH_TILE(tile_halves, p, w, p->K, AHEAD / 2 * p->K, n, num, k0, depth)
}

INLINE void panel_int8_halves(const product *p, int64_t n, int num, int64_t k0, int64_t depth) {
    const int8_t *w = (const int8_t *)p->w + n * p->K + k0;
    if (p->M == 1 && depth % HALVES == 0) { /* used once, so widened in registers; in the same order all the same */
        vec sum[PANEL] = {0};
        for (int64_t k = 0; k < depth; k += HALVES) {
            __m512i x = _mm512_loadu_si512(p->halves + k0 + k);
            for (int r = 0; r < num; r++) {
                __builtin_prefetch(w + (r + AHEAD) * p->K + k);
                sum[r] = add_products(sum[r], x, load_int8_halves(w + r * p->K + k));
            }
        }
        put(p, sum, n, num, 0, k0);
        return;
    }
    uint16_t wide[PANEL * DEPTH] __attribute__((aligned(64)));
    for (int r = 0; r < num; r++)
        for (int64_t k = 0; k < depth; k += LANES) {
            __builtin_prefetch(w + (r + AHEAD) * p->K + k);
            store_bf16(wide + r * DEPTH + k, load_int8(w + r * p->K + k));
        }
    EACH_TILE(tile_halves, p, wide, DEPTH, 0, n, num, k0, depth)
}

#endif

#define DEFINE_ROWS(NAME, MOST)                                                                         \
    static void rows_##NAME(const product *p, int64_t start, int64_t end) {                             \
        for (int64_t n = start; n < end; n += PANEL)                                                    \
            for (int64_t k0 = 0; k0 < p->K; k0 += MOST) {                                               \
                int64_t depth = p->K - k0 < MOST ? p->K - k0 : MOST;                                    \
                if (end - n >= PANEL) panel_##NAME(p, n, PANEL, k0, depth);                             \
                else for (int64_t one = n; one < end; one++) panel_##NAME(p, one, 1, k0, depth);        \
            }                                                                                           \
    }

DEFINE_ROWS(f32, DEPTH)
DEFINE_ROWS(bf16, DEPTH)
DEFINE_ROWS(int8, DEPTH)
#if defined(MULTIPLIES_BF16)
DEFINE_ROWS(bf16_halves, p->K) /* nothing is copied, and x in bf16 stays in the caches anyway */
DEFINE_ROWS(int8_halves, DEPTH)
#endif

void linear(float *y, const float *x, uint16_t *halves, const weights *w, int64_t M, int adds) {
    product p = {y, x, halves, w->data, w->scale, M, w->rows, w->columns, w->kind == INT8, adds};
    if (M >= fewest_tiled && fits_tiles(w)) {
        linear_in_tiles(&p, x, halves);
        return;
    }
    void (*rows)(const product *, int64_t, int64_t) =
        w->kind == F32 ? rows_f32 : w->kind == BF16 ? rows_bf16 : rows_int8;
#if defined(MULTIPLIES_BF16)
    if (w->kind != F32 && w->rounds) {
        rows = w->kind == BF16 ? rows_bf16_halves : rows_int8_halves;
#pragma omp for
        for (int64_t m = 0; m < M; m++)
            for (int64_t k = 0; k < p.K; k += LANES) store_bf16(halves + m * p.K + k, load_f32(x + m * p.K + k));
    }
#endif
    /* One row of x is bound by memory, which likes long stretches; several by arithmetic, where a core that is held up
       should leave its parts to the others. */
    int64_t panels = (p.N + PANEL - 1) / PANEL, parts = (M == 1 ? 2 : 8) * omp_get_num_threads();
    int64_t share = (panels + parts - 1) / parts * PANEL;
#pragma omp for schedule(dynamic)
    for (int64_t start = 0; start < p.N; start += share) {
        rows(&p, start, start + share < p.N ? start + share : p.N);
    }
}

int chatsmith_linear(float *y, const float *x, const weights *w, int64_t M, int threads) {
    uint16_t *halves = malloc((M + 15) / 16 * 16 * w->columns * sizeof *halves);
    if (!halves) return -1;
#pragma omp parallel num_threads(threads)
    linear(y, x, halves, w, M, 0);
    free(halves);
    return 0;
}
