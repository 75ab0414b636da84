/* The same product where the processor multiplies tiles: Intel's AMX (Architecture Instruction Set Extensions, chapter
   3), sixteen times the arithmetic of a vector an instruction.

   A tile is sixteen lines of 64 bytes. One instruction multiplies sixteen rows of W, 32 columns of them, by as many
   columns of sixteen rows of x, and adds the result to a tile of 16 x 16 sums. The tile of W is read where it lies.
   That of x must hold pairs of columns as lines, one row of x beside the other, so x is laid out anew beforehand; the
   sums come out with a line for each row of W, and are turned round as well. */

#include "linear.h"

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>

#define SIDE 16 /* rows of W, and of x, of a tile */
#define STEP 32 /* columns of a tile: 64 bytes of bf16 */
#define TILE (SIDE * STEP)
#define AHEAD 256 /* bytes: 8 % faster than asking for the rows that come next, or for nothing */

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* arch_prctl's, of Linux: ARCH_REQ_XCOMP_PERM */

static int is_allowed;

/* Linux gives a process tiles only if it asks for them, and not if a thread's signal stack could not hold them. */
__attribute__((constructor)) static void ask_for_tiles(void) {
    is_allowed = !syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
}

int fits_tiles(const weights *w) {
    return is_allowed && w->rounds && w->kind != F32 && w->rows % SIDE == 0 && w->columns % STEP == 0;
}

/* Sixteen vectors as a matrix, turned round. A round moves the first half of the numbers between those of the second,
   which turns the eight bits of each one's place by one; after four of them lines and columns have changed places. */
INLINE void turn(vec v[SIDE]) {
    for (int round = 0; round < 4; round++) {
        vec turned[SIDE];
        for (int i = 0; i < SIDE / 2; i++) {
            vec a = v[i], b = v[i + SIDE / 2];
            turned[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            turned[2 * i + 1] =
                __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(v, turned, sizeof turned);
    }
}

/* The tile of x of `rows` rows from x on, rounded to bf16. */
static void lay_out(uint16_t *tile, const float *x, int64_t K, int64_t rows) {
    vec pairs[SIDE] = {0};
    for (int64_t m = 0; m < rows; m++) {
        store_bf16((uint16_t *)(pairs + m), load_f32(x + m * K));
        store_bf16((uint16_t *)(pairs + m) + LANES, load_f32(x + m * K + LANES));
    }
    turn(pairs);
    memcpy(tile, pairs, sizeof pairs);
}

/* Sums of sixteen rows of W, from n on, with rows of x, from m on: stored, or added to what stands there. */
static void put_tile(const product *p, float sums[SIDE * SIDE], int64_t n, int64_t m) {
    vec v[SIDE];
    memcpy(v, sums, sizeof v);
    turn(v);
    vec scale = p->scale ? load_f32(p->scale + n) : (vec){0} + 1;
    for (int64_t i = 0; i < SIDE && m + i < p->M; i++) {
        float *y = p->y + (m + i) * p->N + n;
        vec found = v[i] * scale;
        if (p->adds) found += load_f32(y);
        memcpy(y, &found, sizeof found);
    }
}

/* Sixteen rows of int8, 32 columns of them, as a tile. */
INLINE void widen(uint16_t tile[TILE], const int8_t *w, int64_t K) {
    for (int r = 0; r < SIDE; r++) {
        store_bf16(tile + r * STEP, load_int8(w + r * K));
        store_bf16(tile + r * STEP + LANES, load_int8(w + r * K + LANES));
    }
}

/* `num_w` times sixteen rows of W, from n on, with `num_x` times sixteen rows of x, from m on. The first block asks
   for what comes next of its rows of W. */
INLINE void block(const product *p, int64_t n, int num_w, int64_t m, int num_x) {
    int64_t K = p->K, size = p->is_int8 ? 1 : 2, stride = 2 * K;
    const char *w = (const char *)p->w + n * K * size;
    const uint16_t *x = p->halves + m * K;
    uint16_t wide[2][TILE] __attribute__((aligned(64)));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < K; k += STEP) {
        if (m == 0)
            for (int r = 0; r < num_w * SIDE; r++) __builtin_prefetch(w + (r * K + k) * size + AHEAD);
        const void *first = w + k * size, *second = w + (SIDE * K + k) * size;
        if (p->is_int8) {
            widen(wide[0], first, K);
            if (num_w == 2) widen(wide[1], second, K);
            first = wide[0], second = wide[1], stride = 2 * STEP;
        }
        _tile_loadd(6, x + k * SIDE, 2 * STEP);
        _tile_loadd(4, first, stride);
        _tile_dpbf16ps(0, 4, 6);
        if (num_w == 2) {
            _tile_loadd(5, second, stride);
            _tile_dpbf16ps(1, 5, 6);
        }
        if (num_x == 2) {
            _tile_loadd(7, x + SIDE * K + k * SIDE, 2 * STEP);
            _tile_dpbf16ps(2, 4, 7);
            if (num_w == 2) _tile_dpbf16ps(3, 5, 7);
        }
    }
    float sums[4][SIDE * SIDE] __attribute__((aligned(64)));
    _tile_stored(0, sums[0], 4 * SIDE);
    _tile_stored(1, sums[1], 4 * SIDE);
    _tile_stored(2, sums[2], 4 * SIDE);
    _tile_stored(3, sums[3], 4 * SIDE);
    for (int j = 0; j < num_x; j++)
        for (int i = 0; i < num_w; i++) put_tile(p, sums[2 * j + i], n + i * SIDE, m + j * SIDE);
}

static void panels(const product *p, int64_t start, int64_t end) {
    for (int64_t n = start; n < end; n += 2 * SIDE)
        for (int64_t m = 0; m < p->M; m += 2 * SIDE) {
            int num_w = end - n > SIDE ? 2 : 1, num_x = p->M - m > SIDE ? 2 : 1;
            if (num_w == 2 && num_x == 2) block(p, n, 2, m, 2);
            else if (num_w == 2) block(p, n, 2, m, 1);
            else if (num_x == 2) block(p, n, 1, m, 2);
            else block(p, n, 1, m, 1);
        }
}

void linear_in_tiles(const product *p, const float *x, uint16_t *halves) {
    static const struct {
        uint8_t palette, start, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } whole = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    int64_t across = p->K / STEP, tiles = (p->M + SIDE - 1) / SIDE * across;
#pragma omp for
    for (int64_t i = 0; i < tiles; i++) {
        int64_t m = i / across * SIDE, rows = p->M - m < SIDE ? p->M - m : SIDE;
        lay_out(halves + i * TILE, x + m * p->K + i % across * STEP, p->K, rows);
    }
    _tile_loadconfig(&whole);
    int64_t pairs = (p->N / SIDE + 1) / 2, parts = 4 * omp_get_num_threads();
    int64_t share = (pairs + parts - 1) / parts * 2 * SIDE;
#pragma omp for schedule(dynamic)
    for (int64_t start = 0; start < p->N; start += share)
        panels(p, start, start + share < p->N ? start + share : p->N);
    _tile_release();
}

#else

int fits_tiles(const weights *w) {
    (void)w;
    return 0;
}
void linear_in_tiles(const product *p, const float *x, uint16_t *halves) { (void)p, (void)x, (void)halves; }

#endif
