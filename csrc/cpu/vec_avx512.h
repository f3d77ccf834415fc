// 16 lanes on AVX-512 (F, BW, DQ, VL, VNNI). Include inside the target region of isa_avx512.cpp only.
#pragma once

namespace tmoe {
namespace {

struct Vec {
    static constexpr size_t kTileGroups = 2, kTileTokens = 6;  // int + float accumulators of a tile: 24 of 32 registers
    static constexpr size_t kAttendSums = 16;   // sums that attention keeps in registers, beside what it reads

    using F = __m512;
    using I = __m512i;
    using W = __m512i;  // 64 unsigned bytes: 4 consecutive columns of 16 rows

    static inline F set1(float x) { return _mm512_set1_ps(x); }
    static inline F load(const float* p) { return _mm512_loadu_ps(p); }
    static inline void store(float* p, F a) { _mm512_storeu_ps(p, a); }
    static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
    static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static inline F div(F a, F b) { return _mm512_div_ps(a, b); }
    static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
    static inline F min(F a, F b) { return _mm512_min_ps(a, b); }

    static inline F load_f16(const uint16_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static inline void store_f16(uint16_t* p, F a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static inline F load_bf16(const uint16_t* p) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
        return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
    }

    static inline I iset1(int32_t x) { return _mm512_set1_epi32(x); }
    static inline I iload(const int32_t* p) { return _mm512_loadu_si512(p); }
    static inline void istore(int32_t* p, I a) { _mm512_storeu_si512(p, a); }
    static inline I iload_i8(const int8_t* p) {
        return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static inline void istore_i8(int8_t* p, I a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
    }
    static inline I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
    static inline I imul(I a, I b) { return _mm512_mullo_epi32(a, b); }
    static inline I iand(I a, I b) { return _mm512_and_si512(a, b); }
    static inline I imax(I a, I b) { return _mm512_max_epi32(a, b); }
    static inline int32_t lanes_max(I a) { return _mm512_reduce_max_epi32(a); }
    static inline int32_t lanes_sum(I a) { return _mm512_reduce_add_epi32(a); }
    template <int n> static inline I shl(I a) { return _mm512_slli_epi32(a, n); }
    template <int n> static inline I sra(I a) { return _mm512_srai_epi32(a, n); }
    static inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
    static inline I round_to_int(F a) { return _mm512_cvtps_epi32(a); }  // nearest even, the default mode
    static inline I bits(F a) { return _mm512_castps_si512(a); }
    static inline F from_bits(I a) { return _mm512_castsi512_ps(a); }

    static inline W load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static inline W low_nibbles(W a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
    static inline W high_nibbles(W a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
    /** table[n] for each nibble n, one a byte. */
    static inline W look_up(const uint8_t (&table)[16], W nibbles) {
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), nibbles);
    }
    /** The bits of each byte of `a` from `from` on, moved to bit 4 on; those that `mask` has are joined to the low nibbles of `low`. */
    template <int from, int mask> static inline W join_high_bits(W low, W a) {
        const W moved = from < 4 ? _mm512_slli_epi16(a, from < 4 ? 4 - from : 0) : _mm512_srli_epi16(a, from < 4 ? 0 : from - 4);
        return _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(mask)));
    }
    /** acc + the dot product of each row's four bytes with four int8, for bytes up to 63 … */
    static inline I dot4_small(I acc, W w, const int8_t* a) { return dot4(acc, w, a); }
    /** … and for any bytes. */
    static inline I dot4(I acc, W w, const int8_t* a) {
        int32_t four;
        memcpy(&four, a, 4);
        return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(four));
    }
};

/** Exact sum of products of 24-bit integers. */
inline int64_t dot_i64(const int32_t* a, const int32_t* b, size_t n) {
    __m512i even = _mm512_setzero_si512(), odd = even;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i x = _mm512_loadu_si512(a + i), y = _mm512_loadu_si512(b + i);
        even = _mm512_add_epi64(even, _mm512_mul_epi32(x, y));
        odd = _mm512_add_epi64(odd, _mm512_mul_epi32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(y, 32)));
    }
    int64_t sum = _mm512_reduce_add_epi64(_mm512_add_epi64(even, odd));
    for (; i < n; i++) sum += static_cast<int64_t>(a[i]) * b[i];
    return sum;
}

}  // namespace
}  // namespace tmoe
