// What matmul_simd.h does with the types whose scale is for 256 columns: eight blocks of 32, each with sub-scales that multiply as integers.
#pragma once
#include "cpu/matmul_blocks_simd.h"

namespace tmoe {
namespace {

/** Q4_K and Q5_K: blocks of `kPart` bytes, then d, dmin and the words of 6-bit scales. B gives dot. */
template <class B, size_t kPart> struct MinimumSuperblocks {
    static constexpr size_t kBlock = 256, kBytes = 8 * kPart + 256, kSums = 1;
    /** What is the same for four blocks of 32: their scales and minimums, one a byte. */
    struct Part {
        Vec::F d, dmin;
        Vec::I scales, minimums;
    };
    static inline Vec::I words(const uint8_t* at) { return Vec::iload(reinterpret_cast<const int32_t*>(at)); }
    template <size_t T, int i> static inline void one(const uint8_t* w, const Panel& p, size_t b, const Part& part, Vec::F* acc) {
        using V = Vec;
        V::I dot[T];
        for (size_t t = 0; t < T; t++) dot[t] = V::iset1(0);
        B::template dot<T>(w + kPart * i, p.q + (b + i) * 32 * T, dot);
        const V::I scale = V::iand(V::template sra<8 * i>(part.scales), V::iset1(63));
        const V::I minimum = V::iand(V::template sra<8 * i>(part.minimums), V::iset1(63));
        for (size_t t = 0; t < T; t++) {
            const V::F own = V::set1(p.scale[(b + i) * T + t]);
            const V::I below = V::imul(minimum, V::iset1(p.sum[(b + i) * T + t] / 8));  // -Σq minimums
            acc[t] = V::fma(V::mul(part.d, own), V::to_float(V::imul(dot[t], scale)), acc[t]);
            acc[t] = V::fma(V::mul(part.dmin, own), V::to_float(below), acc[t]);
        }
    }
    template <size_t T> static inline void four(const uint8_t* w, const Panel& p, size_t b, const Part& part, Vec::F* acc) {
        one<T, 0>(w, p, b, part, acc);
        one<T, 1>(w, p, b, part, acc);
        one<T, 2>(w, p, b, part, acc);
        one<T, 3>(w, p, b, part, acc);
    }
    template <size_t T> static inline void run(const uint8_t* w, size_t blocks, const Panel& p, Vec::F* acc) {
        using V = Vec;
        const V::I six = V::iset1(0x3f3f3f3f), low = V::iset1(0x0f0f0f0f), high = V::iset1(0x30303030);
        for (size_t big = 0; big < blocks; big++, w += kBytes) {
            const uint8_t* tail = w + 8 * kPart;
            const V::I a = words(tail + 64), m = words(tail + 128), rest = words(tail + 192);
            Part part{halves_at(tail), halves_at(tail + 32), V::iand(a, six), V::iand(m, six)};
            four<T>(w, p, 8 * big, part, acc);
            part.scales = V::iadd(V::iand(rest, low), V::iand(V::template sra<2>(a), high));
            part.minimums = V::iadd(V::iand(V::template sra<4>(rest), low), V::iand(V::template sra<2>(m), high));
            four<T>(w + 4 * kPart, p, 8 * big + 4, part, acc);
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
    static constexpr size_t kBlock = 256, kBytes = 2176, kSums = 1;
    template <size_t T, int i> static inline void one(const uint8_t* w, const Panel& p, size_t b, Vec::F d, Vec::I low, Vec::I high, Vec::F* acc) {
        using V = Vec;
        V::I dot[T];
        for (size_t t = 0; t < T; t++) dot[t] = V::template shl<4>(V::iset1(p.sum[(b + i) * T + t]));  // -8 Σq to -128 Σq
        dot_nibbles<IQ4, T>(w + 256 * i, p.q + (b + i) * 32 * T, dot);
        const V::I four = V::iand(V::template sra<4 * i>(low), V::iset1(15)), two = V::iand(V::template sra<2 * i>(high), V::iset1(3));
        const V::I scale = V::iadd(V::iadd(four, V::template shl<4>(two)), V::iset1(-32));
        for (size_t t = 0; t < T; t++) {
            acc[t] = V::fma(V::mul(d, V::set1(p.scale[(b + i) * T + t])), V::to_float(V::imul(dot[t], scale)), acc[t]);
        }
    }
    template <size_t T, int... i>
    static inline void all(const uint8_t* w, const Panel& p, size_t b, Vec::F d, Vec::I low, Vec::I high, Vec::F* acc, std::integer_sequence<int, i...>) {
        (one<T, i>(w, p, b, d, low, high, acc), ...);
    }
    template <size_t T> static inline void run(const uint8_t* w, size_t blocks, const Panel& p, Vec::F* acc) {
        using V = Vec;
        for (size_t big = 0; big < blocks; big++, w += kBytes) {
            // Two bytes a row widen as bf16 does: to the upper half of a word.
            const V::I high = V::template sra<16>(V::bits(V::load_bf16(reinterpret_cast<const uint16_t*>(w + 2080))));
            const V::I low = V::iload(reinterpret_cast<const int32_t*>(w + 2112));
            all<T>(w, p, 8 * big, halves_at(w + 2048), low, high, acc, std::make_integer_sequence<int, 8>{});
        }
    }
};

struct Q6_K {
    static constexpr size_t kBlock = 256, kBytes = 3360, kSums = 2;
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
    template <size_t T> static inline void run(const uint8_t* w, size_t blocks, const Panel& p, Vec::F* acc) {
        using V = Vec;
        for (size_t big = 0; big < blocks; big++, w += kBytes) {
            const V::F scale = halves_at(w + 3328);
            for (size_t b = 0; b < 8; b++) {
                const uint8_t* at = w + 416 * b;
                const size_t block = big * 8 + b;
                const int8_t* q = p.q + block * 32 * T;
                V::I first[T], second[T];
                for (size_t t = 0; t < T; t++) first[t] = V::iset1(p.sum[(block * T + t) * 2]);
                half<T, 0>(at, q, first);
                for (size_t t = 0; t < T; t++) second[t] = V::iset1(p.sum[(block * T + t) * 2 + 1]);
                half<T, 1>(at, q, second);
                const V::I s0 = V::iload_i8(reinterpret_cast<const int8_t*>(at + 384));
                const V::I s1 = V::iload_i8(reinterpret_cast<const int8_t*>(at + 400));
                for (size_t t = 0; t < T; t++) {
                    const V::I sum = V::iadd(V::imul(first[t], s0), V::imul(second[t], s1));
                    acc[t] = V::fma(V::mul(scale, V::set1(p.scale[block * T + t])), V::to_float(sum), acc[t]);
                }
            }
        }
    }
};

}  // namespace
}  // namespace tmoe
