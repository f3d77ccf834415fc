// 16 lanes on AVX2 with FMA and F16C: two 256-bit halves. Include inside the target region of isa_avx2.cpp only.
#pragma once
#include "cpu/vec_folds.h"

namespace tmoe {
namespace {

struct Vec : LaneFolds<Vec> {
    static constexpr size_t kTileGroups = 1, kTileTokens = 3;  // two halves of int and float accumulators: 12 of 16 registers
    static constexpr size_t kAttendSums = 4;

    struct F {
        __m256 lo, hi;
    };
    struct I {
        __m256i lo, hi;
    };
    using W = I;

    static inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static inline void store(float* p, F a) {
        _mm256_storeu_ps(p, a.lo);
        _mm256_storeu_ps(p + 8, a.hi);
    }
    static inline F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
    static inline F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
    static inline F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
    static inline F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
    static inline F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
    static inline F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
    static inline F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }

    static inline __m128i half(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
    static inline F load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(half(p)), _mm256_cvtph_ps(half(p + 8))}; }
    static inline void store_f16(uint16_t* p, F a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8),
                         _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static inline F load_bf16(const uint16_t* p) {
        return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half(p)), 16)),
                _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half(p + 8)), 16))};
    }

    static inline I iset1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
    static inline I iload(const int32_t* p) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
    }
    static inline void istore(int32_t* p, I a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
    }
    static inline I iload_i8(const int8_t* p) {
        const __m128i bytes = half(p);
        return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
    }
    static inline void istore_i8(int8_t* p, I a) {
        alignas(32) int32_t wide[16];
        istore(wide, a);
        for (int i = 0; i < 16; i++) p[i] = static_cast<int8_t>(wide[i]);
    }
    static inline I iadd(I a, I b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
    static inline I imul(I a, I b) { return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)}; }
    static inline I iand(I a, I b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
    static inline I imax(I a, I b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
    template <int n> static inline I shl(I a) { return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)}; }
    template <int n> static inline I sra(I a) { return {_mm256_srai_epi32(a.lo, n), _mm256_srai_epi32(a.hi, n)}; }
    static inline F to_float(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
    static inline I round_to_int(F a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
    static inline I bits(F a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
    static inline F from_bits(I a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }

    static inline W load_bytes(const uint8_t* p) { return iload(reinterpret_cast<const int32_t*>(p)); }
    static inline W low_nibbles(W a) { return iand(a, {_mm256_set1_epi8(15), _mm256_set1_epi8(15)}); }
    static inline W high_nibbles(W a) { return low_nibbles({_mm256_srli_epi16(a.lo, 4), _mm256_srli_epi16(a.hi, 4)}); }
    /** table[n] for each nibble n, one a byte. */
    static inline W look_up(const uint8_t (&table)[16], W nibbles) {
        const __m256i values = _mm256_broadcastsi128_si256(half(table));
        return {_mm256_shuffle_epi8(values, nibbles.lo), _mm256_shuffle_epi8(values, nibbles.hi)};
    }
    template <int from, int mask> static inline __m256i join_half(__m256i low, __m256i a) {
        const __m256i moved = from < 4 ? _mm256_slli_epi16(a, from < 4 ? 4 - from : 0) : _mm256_srli_epi16(a, from < 4 ? 0 : from - 4);
        return _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(mask)));
    }
    /** The bits of each byte of `a` from `from` on, moved to bit 4 on; those that `mask` has are joined to the low nibbles of `low`. */
    template <int from, int mask> static inline W join_high_bits(W low, W a) {
        return {join_half<from, mask>(low.lo, a.lo), join_half<from, mask>(low.hi, a.hi)};
    }
    static inline __m256i four(const int8_t* a) {
        int32_t bytes;
        memcpy(&bytes, a, 4);
        return _mm256_set1_epi32(bytes);
    }
    /** Bytes up to 63: the sum of two products stays below 2^15, so vpmaddubsw cannot saturate. */
    static inline I dot4_small(I acc, W w, const int8_t* a) {
        const __m256i x = four(a), one = _mm256_set1_epi16(1);
        return {_mm256_add_epi32(acc.lo, _mm256_madd_epi16(_mm256_maddubs_epi16(w.lo, x), one)),
                _mm256_add_epi32(acc.hi, _mm256_madd_epi16(_mm256_maddubs_epi16(w.hi, x), one))};
    }
    /** Any bytes: even and odd columns as 16-bit integers. */
    static inline I dot4(I acc, W w, const int8_t* a) {
        const __m256i x = four(a), mask = _mm256_set1_epi16(255);
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), odd = _mm256_srai_epi16(x, 8);
        const auto one = [&](__m256i sum, __m256i bytes) {
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(bytes, mask), even));
            return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(bytes, 8), odd));
        };
        return {one(acc.lo, w.lo), one(acc.hi, w.hi)};
    }
};

/** Exact sum of products of 24-bit integers. */
inline int64_t dot_i64(const int32_t* a, const int32_t* b, size_t n) {
    __m256i even = _mm256_setzero_si256(), odd = even;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i));
        const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + i));
        even = _mm256_add_epi64(even, _mm256_mul_epi32(x, y));
        odd = _mm256_add_epi64(odd, _mm256_mul_epi32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(y, 32)));
    }
    alignas(32) int64_t lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi64(even, odd));
    int64_t sum = lanes[0] + lanes[1] + lanes[2] + lanes[3];
    for (; i < n; i++) sum += static_cast<int64_t>(a[i]) * b[i];
    return sum;
}

}  // namespace
}  // namespace tmoe
