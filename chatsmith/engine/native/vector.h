/* Vectors of floats as wide as the machine's registers, and how weights of each storage type become them.

   GCC's and Clang's vector extensions do the arithmetic. Only the two widening loads need intrinsics: written as
   conversions, GCC 12 turned them into code four times slower than memory (measured on Zen 3, int8). */

#pragma once
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#else
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#define LANES 8
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float quad __attribute__((vector_size(16)));

/* How numbers are stored; the same numbers as STORED_AS in native/__init__.py. */
enum { F32 = 0, BF16 = 1, INT8 = 2 };

INLINE vec load_f32(const float *from) {
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

#if defined(__AVX512F__)
INLINE vec load_bf16(const uint16_t *from) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16);
}
INLINE vec load_int8(const int8_t *from) {
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)from)));
}
#elif defined(__AVX2__)
INLINE vec load_bf16(const uint16_t *from) {
    return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)from)), 16);
}
INLINE vec load_int8(const int8_t *from) {
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)from)));
}
#else
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
INLINE vec load_bf16(const uint16_t *from) {
    halves h;
    memcpy(&h, from, sizeof h);
    return (vec)(__builtin_convertvector(h, words) << 16);
}
INLINE vec load_int8(const int8_t *from) {
    bytes b;
    memcpy(&b, from, sizeof b);
    return __builtin_convertvector(b, vec);
}
#endif

/* The sum of a vector's lanes, pairwise. */
INLINE float total(vec v) {
#if LANES == 16
    quad low = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 8, 9, 10, 11);
    quad high = __builtin_shufflevector(v, v, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 12, 13, 14, 15);
#else
    quad low = __builtin_shufflevector(v, v, 0, 1, 2, 3), high = __builtin_shufflevector(v, v, 4, 5, 6, 7);
#endif
    quad sum = low + high;
    sum += __builtin_shufflevector(sum, sum, 2, 3, 0, 1);
    return sum[0] + sum[1];
}
