// What matmul_simd.h does with the types whose scale is for 256 columns: eight blocks of 32, each with sub-scales that multiply as integers.
#pragma once
#include "cpu/matmul_blocks_simd.h"

namespace tmoe {
namespace {

/** Q4_K and Q5_K: blocks of `kPart` bytes, then d, dmin and the words of 6-bit scales. B gives dot. */
template <class B, size_t kPart> struct MinimumSuperblocks {
    using Inputs = Panel;
    static inline Vec::I words(const uint8_t* at) { return Vec::iload(reinterpret_cast<const int32_t*>(at)); }
    template <size_t T> static inline void run(const uint8_t* w, size_t columns, const Panel& p, Vec::F* acc) {
        using V = Vec;
        const V::I six = V::iset1(0x3f3f3f3f), low = V::iset1(0x0f0f0f0f), high = V::iset1(0x30303030), lowest = V::iset1(63);
        for (size_t b = 0; b < columns / 32; w += 256) {
            const uint8_t* tail = w + 8 * kPart;
            const V::F d = halves_at(tail), dmin = halves_at(tail + 32);
            V::I scales = V::iand(words(tail + 64), six), minimums = V::iand(words(tail + 128), six);  // of four blocks of 32, one a byte
            for (size_t i = 0; i < 8; i++, b++, w += kPart) {
                if (i == 4) {
                    const V::I rest = words(tail + 192);
                    scales = V::iadd(V::iand(rest, low), V::iand(V::template sra<2>(words(tail + 64)), high));
                    minimums = V::iadd(V::iand(V::template sra<4>(rest), low), V::iand(V::template sra<2>(words(tail + 128)), high));
                }
                V::I dot[T];
                for (size_t t = 0; t < T; t++) dot[t] = V::iset1(0);
                B::template dot<T>(w, p.q + b * 32 * T, dot);
                const V::I scale = V::iand(scales, lowest), minimum = V::iand(minimums, lowest);
                for (size_t t = 0; t < T; t++) {
                    const V::F own = V::set1(p.scale[b * T + t]);
                    const V::I below = V::imul(minimum, V::iset1(p.sum[b * T + t] / 8));  // -Σq minimums
                    acc[t] = V::fma(V::mul(d, own), V::to_float(V::imul(dot[t], scale)), acc[t]);
                    acc[t] = V::fma(V::mul(dmin, own), V::to_float(below), acc[t]);
                }
                scales = V::template sra<8>(scales);
                minimums = V::template sra<8>(minimums);
            }
        }
    }
};

struct Q4_K : MinimumSuperblocks<Q4_K, 256> {
    template <size_t T> static inline void dot(const uint8_t* w, const int8_t* q, Vec::I* dot) { dot_nibbles<Nibbles, T>(w, q, dot); }
};

struct Q5_K : MinimumSuperblocks<Q5_K, 320> {
    template <size_t T> static inline void dot(const uint8_t* w, const int8_t* q, Vec::I* dot) { dot_five_bits<T>(w, q, dot); }
};

struct IQ4_XS {
    using Inputs = Panel;
    template <size_t T> static inline void run(const uint8_t* w, size_t columns, const Panel& p, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < columns / 32; w += 128) {
            const uint8_t* tail = w + 2048;
            const V::F d = halves_at(tail);
            // Of all eight blocks of 32, from the lowest bits on. Two bytes a row widen as bf16 does: to the upper half of a word.
            V::I high = V::template sra<16>(V::bits(V::load_bf16(reinterpret_cast<const uint16_t*>(tail + 32))));
            V::I low = V::iload(reinterpret_cast<const int32_t*>(tail + 64));
            for (size_t i = 0; i < 8; i++, b++, w += 256) {
                V::I dot[T];
                for (size_t t = 0; t < T; t++) dot[t] = V::template shl<4>(V::iset1(p.sum[b * T + t]));  // -8 Σq to -128 Σq
                dot_nibbles<IQ4, T>(w, p.q + b * 32 * T, dot);
                const V::I four = V::iand(low, V::iset1(15)), two = V::iand(high, V::iset1(3));
                const V::I scale = V::iadd(V::iadd(four, V::template shl<4>(two)), V::iset1(-32));
                for (size_t t = 0; t < T; t++) acc[t] = V::fma(V::mul(d, V::set1(p.scale[b * T + t])), V::to_float(V::imul(dot[t], scale)), acc[t]);
                low = V::template sra<4>(low);
                high = V::template sra<2>(high);
            }
        }
    }
};

struct Q6_K {
    using Inputs = Panel;
    template <size_t T, size_t sub> static inline void half(const uint8_t* w, const int8_t* q, Vec::I* dot) {
        using V = Vec;
        const V::W bits = V::load_bytes(w + 256 + 64 * sub);
        const auto group = [&](auto field) {
            constexpr int f = decltype(field)::value;
            const V::W bytes = V::load_bytes(w + 64 * f);
            const V::W four = sub ? V::high_nibbles(bytes) : V::low_nibbles(bytes);
            const V::W six = V::template join_high_bits<2 * f, 0x30>(four, bits);
            for (size_t t = 0; t < T; t++) dot[t] = V::dot4_small(dot[t], six, q + t * 32 + 16 * sub + 4 * f);
        };
        group(std::integral_constant<int, 0>{});
        group(std::integral_constant<int, 1>{});
        group(std::integral_constant<int, 2>{});
        group(std::integral_constant<int, 3>{});
    }
    template <size_t T> static inline void run(const uint8_t* w, size_t columns, const Panel& p, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < columns / 32; w += 32) {
            const V::F scale = halves_at(w + 3328);
            for (size_t i = 0; i < 8; i++, b++, w += 416) {
                V::I first[T], second[T];
                for (size_t t = 0; t < T; t++) first[t] = V::iset1(p.sum16[(b * T + t) * 2]);
                half<T, 0>(w, p.q + b * 32 * T, first);
                for (size_t t = 0; t < T; t++) second[t] = V::iset1(p.sum16[(b * T + t) * 2 + 1]);
                half<T, 1>(w, p.q + b * 32 * T, second);
                const V::I s0 = V::iload_i8(reinterpret_cast<const int8_t*>(w + 384));
                const V::I s1 = V::iload_i8(reinterpret_cast<const int8_t*>(w + 400));
                for (size_t t = 0; t < T; t++) {
                    const V::I sum = V::iadd(V::imul(first[t], s0), V::imul(second[t], s1));
                    acc[t] = V::fma(V::mul(scale, V::set1(p.scale[b * T + t])), V::to_float(sum), acc[t]);
                }
            }
        }
    }
};

}  // namespace
}  // namespace tmoe
