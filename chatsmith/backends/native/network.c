/* The network of chatsmith/model/gpt.py for single tokens: one step of decoding for R sequences, without the head.

   Written as the model is written, so that the two can be read side by side; a test compares them. It exists because
   torch's operations, a few microseconds each and some sixty a layer, took longer than the arithmetic of a small
   model, and because keys and values can be read where they lie in the pool. One parallel region spans the step: its
   threads share the work of each loop and wait for each other after it.

   Shapes: R sequences, C channels, H heads, D head dim, L layers. Everything is computed in float32. */

#include "linear.h"
#include <math.h>

typedef struct {
    weights qkv, out, up, down;
    weights values;          /* value embedding (V, C); no data where the layer has none */
    const float *value_gate; /* (H, gate channels) */
    const float *scalars;    /* (3,) */
    int64_t window;
    void *keys_pool, *values_pool; /* (slots, H, D) of this layer */
} layer;

typedef struct {
    int64_t L, C, H, D, gate_channels, bigram_buckets, block_size, pool_kind, is_gated;
    weights embedding, bigram; /* tables of (rows, C); the bigram's has no data where the model has none */
    const float *smear_gate, *smear_strength, *cos, *sin; /* (channels,), (1,), (T, D / 2) twice */
    const layer *layers;
} network;

typedef struct {
    int64_t R, width;
    const int64_t *tokens, *previous, *positions; /* (R,); -1 before the first token */
    const int64_t *tables;                        /* (R, width): the blocks of each sequence */
    float *x, *embedding, *bigram, *normed, *qkv, *wide, *scores; /* (R, C), but: (R, 3C), (R, up's rows), (R, H, positions) */
    uint16_t *halves;                                            /* (R, the largest product's columns) */
} step;

static float sigmoid(float x) { return 1 / (1 + expf(-x)); }

static float dot(const float *a, const float *b, int64_t n) {
    vec sum = {0};
    for (int64_t i = 0; i < n; i += LANES) sum += load_f32(a + i) * load_f32(b + i);
    return total(sum);
}

/* Unit root mean square, as torch's rms_norm: with the smallest number that float32 tells from 1 added. */
static void norm(float *y, const float *x, int64_t n) {
    float factor = 1 / sqrtf(dot(x, x, n) / n + 1.1920929e-7f);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * factor;
}

/* One row of a table, widened. */
static void look_up(float *y, const weights *table, int64_t row) {
    int64_t n = table->columns;
    for (int64_t i = 0; i < n; i += LANES) {
        vec v = table->kind == F32 ? load_f32((const float *)table->data + row * n + i)
                                   : load_bf16((const uint16_t *)table->data + row * n + i);
        memcpy(y + i, &v, sizeof v);
    }
}

static uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; /* to nearest, ties to even */
}

static void store(const network *net, void *pool, int64_t slot, const float *row) {
    if (net->pool_kind == F32) memcpy((float *)pool + slot * net->C, row, net->C * sizeof *row);
    else
        for (int64_t i = 0; i < net->C; i++) ((uint16_t *)pool)[slot * net->C + i] = to_bf16(row[i]);
}

INLINE vec load_pool(int64_t kind, const void *pool, int64_t at) {
    return kind == F32 ? load_f32((const float *)pool + at) : load_bf16((const uint16_t *)pool + at);
}

static int64_t slot_of(const network *net, const step *s, int64_t r, int64_t position) {
    int64_t block = s->tables[r * s->width + position / net->block_size];
    return block * net->block_size + position % net->block_size;
}

/* GPT._embed and bigram_buckets. */
static void embed(const network *net, const step *s, int64_t r) {
    int64_t token = s->tokens[r], previous = s->previous[r], C = net->C;
    float *x = s->embedding + r * C, *before = s->normed + r * C;
    look_up(x, &net->embedding, token);
    norm(x, x, C);
    if (previous >= 0) {
        float gate = *net->smear_strength * sigmoid(dot(net->smear_gate, x, net->gate_channels));
        look_up(before, &net->embedding, previous);
        norm(before, before, C);
        for (int64_t i = 0; i < C; i++) x[i] += gate * before[i];
    }
    memcpy(s->x + r * C, x, C * sizeof *x);
    if (net->bigram.data) {
        int64_t mixed = (token + 1) * 2654435761 + (previous + 1) * 40503;
        look_up(s->bigram + r * C, &net->bigram, (mixed ^ (mixed >> 15)) % net->bigram_buckets);
    }
}

/* What a block does first: mix the embeddings into the stream, and normalise. */
static void enter(const network *net, const layer *l, const step *s, int64_t r) {
    int64_t C = net->C;
    float *x = s->x + r * C, *embedding = s->embedding + r * C, *bigram = s->bigram + r * C;
    for (int64_t i = 0; i < C; i++) x[i] = l->scalars[0] * x[i] + l->scalars[1] * embedding[i];
    if (net->bigram.data)
        for (int64_t i = 0; i < C; i++) x[i] += l->scalars[2] * bigram[i];
    norm(s->normed + r * C, x, C);
}

static void rotate(float *x, const float *cos, const float *sin, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        float first = x[i], second = x[half + i];
        x[i] = first * cos[i] + second * sin[i];
        x[half + i] = second * cos[i] - first * sin[i];
    }
}

/* Queries and keys rotated and normalised, values with their embedding; keys and values into the pool. */
static void prepare(const network *net, const layer *l, const step *s, int64_t r) {
    int64_t C = net->C, D = net->D, position = s->positions[r];
    float *q = s->qkv + r * 3 * C, *k = q + C, *v = k + C, *wide = s->wide + r * 4 * C;
    if (l->values.data) {
        look_up(wide, &l->values, s->tokens[r]);
        for (int64_t h = 0; h < net->H; h++) {
            const float *gates = l->value_gate + h * net->gate_channels;
            float gate = 2 * sigmoid(dot(gates, s->normed + r * C, net->gate_channels));
            for (int64_t d = 0; d < D; d++) v[h * D + d] += gate * wide[h * D + d];
        }
    }
    for (int64_t h = 0; h < 2 * net->H; h++) { /* the heads of k follow those of q */
        rotate(q + h * D, net->cos + position * (D / 2), net->sin + position * (D / 2), D / 2);
        norm(q + h * D, q + h * D, D);
    }
    int64_t slot = slot_of(net, s, r, position);
    store(net, l->keys_pool, slot, k);
    store(net, l->values_pool, slot, v);
}

/* exp(x) of x <= 0 to the last digit or two, in steps that a compiler can take for many numbers at a time, which it
   cannot do with a call: 2^n e^r, with e^r as its series (|r| < 0.35). NaN stays NaN. */
INLINE float exponential(float x) {
    float clamped = x < -87 ? -87 : x, n = rintf(clamped * 1.44269504f);
    float r = clamped - n * 0.693145752f - n * 1.42860677e-6f; /* ln 2 in two parts, n times the first is exact */
    float series = 1 + r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r / 720)))));
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

static void soften(float *scores, int64_t first, int64_t length) {
    float highest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : highest)
    for (int64_t t = first; t < length; t++) highest = scores[t] > highest ? scores[t] : highest;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = first; t < length; t++) sum += scores[t] = exponential(scores[t] - highest);
    for (int64_t t = first; t < length; t++) scores[t] /= sum;
}

/* The tokens of a sequence that lie in one block of the pool: from `start` to `end`, the first of them at `at`, in
   floats; `ahead` is how far from there the next block lies, whose lines are asked for while this one is read. */
typedef struct {
    int64_t start, end, at, ahead;
} stretch;

static stretch stretch_from(const network *net, const int64_t *table, int64_t start, int64_t length) {
    int64_t size = net->block_size, block = start / size, end = (block + 1) * size;
    int64_t next = end < length ? table[block + 1] : table[block];
    return (stretch){start, end < length ? end : length, (table[block] * size + start % size) * net->C,
                     (next - table[block]) * size * net->C};
}

INLINE void prefetch_pool(int64_t kind, const void *pool, int64_t at) {
    __builtin_prefetch((const char *)pool + at * (kind == F32 ? 4 : 2));
}

#define AT_ONCE 4 /* keys whose scores, or vectors of values whose sums, are added up side by side */

/* The products of a query of one head with `num` keys, from `at` on. */
INLINE quad score(int64_t kind, const float *q, const void *keys, int64_t at, int64_t num, int64_t ahead,
                  int64_t C, int64_t D) {
    vec sum[AT_ONCE] = {0};
    for (int64_t d = 0; d < D; d += LANES) {
        vec query = load_f32(q + d);
        for (int64_t i = 0; i < num; i++) {
            prefetch_pool(kind, keys, at + ahead + i * C + d);
            sum[i] += query * load_pool(kind, keys, at + i * C + d);
        }
    }
    return totals(sum[0], sum[1], sum[2], sum[3]);
}

/* Adds to `num` vectors of y the values of a stretch, each times its score. */
INLINE void add_values(int64_t kind, float *y, const float *scores, const void *values, stretch b, int64_t d,
                       int64_t num, int64_t C) {
    vec sum[AT_ONCE];
    for (int64_t i = 0; i < num; i++) sum[i] = load_f32(y + d + i * LANES);
    for (int64_t t = b.start, at = b.at + d; t < b.end; t++, at += C)
        for (int64_t i = 0; i < num; i++) {
            prefetch_pool(kind, values, at + b.ahead + i * LANES);
            sum[i] += scores[t] * load_pool(kind, values, at + i * LANES);
        }
    memcpy(y + d, sum, num * sizeof *sum);
}

/* Attention of some heads of one sequence: scores of the positions they may see, softmax, the weighted sum of the
   values (Vaswani et al. 2017). Both passes read the pool block by block, each block from its beginning to its end.
   Queries lie in qkv; the result goes to `normed`. */
INLINE void attend_to(int64_t kind, const network *net, const layer *l, const step *s, int64_t r, int64_t h0,
                      int64_t h1) {
    int64_t D = net->D, C = net->C, length = s->positions[r] + 1, width = s->width * net->block_size;
    int64_t first = l->window && length > l->window ? length - l->window : 0;
    const int64_t *table = s->tables + r * s->width;
    const float *q = s->qkv + r * 3 * C;
    float *y = s->normed + r * C, *scores = s->scores + r * net->H * width, scale = 1.44f / sqrtf(D);
    for (stretch b = {.end = first}; b.end < length;) {
        b = stretch_from(net, table, b.end, length);
        for (int64_t t = b.start; t < b.end; t += AT_ONCE, b.at += AT_ONCE * C)
            for (int64_t h = h0; h < h1; h++) {
                int64_t num = b.end - t;
                quad found;
                if (num >= AT_ONCE) found = score(kind, q + h * D, l->keys_pool, b.at + h * D, AT_ONCE, b.ahead, C, D);
                else found = score(kind, q + h * D, l->keys_pool, b.at + h * D, num, b.ahead, C, D);
                found *= scale; /* 1.44: SCORE_GAIN of model/attention.py */
                memcpy(scores + h * width + t, &found, (num >= AT_ONCE ? AT_ONCE : num) * sizeof *scores);
            }
    }
    memset(y + h0 * D, 0, (h1 - h0) * D * sizeof *y);
    for (int64_t h = h0; h < h1; h++) soften(scores + h * width, first, length);
    for (stretch b = {.end = first}; b.end < length;) {
        b = stretch_from(net, table, b.end, length);
        for (int64_t h = h0; h < h1; h++) {
            int64_t d = h * D, end = d + D, wide = AT_ONCE * LANES;
            for (; d + wide <= end; d += wide)
                add_values(kind, y, scores + h * width, l->values_pool, b, d, AT_ONCE, C);
            for (; d < end; d += LANES) add_values(kind, y, scores + h * width, l->values_pool, b, d, 1, C);
        }
    }
}

static void attend(const network *net, const layer *l, const step *s, int64_t r, int64_t h0, int64_t h1) {
    if (net->pool_kind == F32) attend_to(F32, net, l, s, r, h0, h1);
    else attend_to(BF16, net, l, s, r, h0, h1);
}

static void squared_relu(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = x[i] > 0 ? x[i] * x[i] : (x[i] == x[i] ? 0 : x[i]);
}

/* SwiGLU: the SiLU of n gates, times the n values behind them. */
static void gated(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * sigmoid(x[i]) * x[n + i];
}

/* Block.forward for all sequences. Called by all threads of a parallel region. */
static void run_layer(const network *net, const layer *l, const step *s) {
    int64_t R = s->R, C = net->C;
#pragma omp for
    for (int64_t r = 0; r < R; r++) enter(net, l, s, r);
    linear(s->qkv, s->normed, s->halves, &l->qkv, R, 0);
#pragma omp for
    for (int64_t r = 0; r < R; r++) prepare(net, l, s, r);
    /* Whole sequences while there are enough of them, for their heads lie side by side; else parts of them. */
    int64_t threads = omp_get_num_threads(), heads = R < threads ? (net->H + threads - 1) / threads : net->H;
    int64_t parts = (net->H + heads - 1) / heads; /* of so many heads each, fewer than threads if there are few */
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < R * parts; task++) {
        int64_t h0 = task % parts * heads, h1 = h0 + heads < net->H ? h0 + heads : net->H;
        attend(net, l, s, task / parts, h0, h1);
    }
    linear(s->x, s->normed, s->halves, &l->out, R, 1);
#pragma omp for
    for (int64_t r = 0; r < R; r++) norm(s->normed + r * C, s->x + r * C, C);
    linear(s->wide, s->normed, s->halves, &l->up, R, 0);
#pragma omp for
    for (int64_t r = 0; r < R; r++) {
        float *wide = s->wide + r * l->up.rows;
        if (net->is_gated) gated(s->qkv + r * l->down.columns, wide, l->down.columns); /* done with queries and keys */
        else squared_relu(wide, l->down.columns);
    }
    linear(s->x, net->is_gated ? s->qkv : s->wide, s->halves, &l->down, R, 1);
}

/* Hidden states, normalised for the head, into s->normed. C, D and the gates' channels are multiples of 16. */
void chatsmith_step(const network *net, const step *s, int threads) {
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t r = 0; r < s->R; r++) embed(net, s, r);
        for (int64_t i = 0; i < net->L; i++) run_layer(net, net->layers + i, s);
#pragma omp for
        for (int64_t r = 0; r < s->R; r++) norm(s->normed + r * net->C, s->x + r * net->C, net->C);
    }
}
