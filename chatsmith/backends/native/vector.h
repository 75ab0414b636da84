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

/* Processors that multiply pairs of bf16 and add them up in float32 do so at twice the speed of float32. */
#if defined(__AVX512BF16__)
#define MULTIPLIES_BF16
#define HALVES 32 /* bf16 numbers in a vector */

/* sum += a pair by pair b, 32 products into 16 sums. */
INLINE vec add_products(vec sum, __m512i a, __m512i b) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
/* 32 numbers of int8, which bf16 holds exactly. */
INLINE __m512i load_int8_halves(const int8_t *from) {
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)load_int8(from + LANES), (__m512)load_int8(from));
}
INLINE void store_bf16(uint16_t *to, vec v) {
    _mm256_storeu_si256((void *)to, (__m256i)_mm512_cvtneps_pbh((__m512)v)); /* to nearest, ties to even */
}
#endif

/* The sums of the lanes of four vectors, side by side: a third of the work of adding up one after the other. */
INLINE quad totals(vec a, vec b, vec c, vec d) {
#if LANES == 16
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define ODD(a, b) __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#else
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define ODD(a, b) __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#endif
    vec ab = LOW(a, b) + HIGH(a, b), cd = LOW(c, d) + HIGH(c, d), v = EVEN(ab, cd) + ODD(ab, cd);
#if LANES == 16
    quad low = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 8, 9, 10, 11);
    quad high = __builtin_shufflevector(v, v, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 12, 13, 14, 15);
#else
    quad low = __builtin_shufflevector(v, v, 0, 1, 2, 3), high = __builtin_shufflevector(v, v, 4, 5, 6, 7);
#endif
    return low + high;
}

/* The sum of a vector's lanes. */
INLINE float total(vec v) { return totals(v, v, v, v)[0]; }
