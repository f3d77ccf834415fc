// What matmul_simd.h does with the types whose scale is for 256 columns: eight blocks of 32, each with sub-scales that multiply as integers.
#pragma once
#include "cpu/matmul_blocks_simd.h"

namespace tmoe {
namespace {

/** Q4_K and Q5_K: blocks of `kPart` bytes, then d, dmin and the words of 6-bit scales. B gives dot. */
template <class B, size_t kPart> struct MinimumSuperblocks {
    using Input = ActivationBlock;
    static inline Vec::I words(const uint8_t* at) { return Vec::iload(reinterpret_cast<const int32_t*>(at)); }
    template <size_t R, size_t T> static inline void run(const uint8_t* w, size_t columns, const Tile<R, T>& tile, Vec::F* acc) {
        using V = Vec;
        const V::I six = V::iset1(0x3f3f3f3f), low = V::iset1(0x0f0f0f0f), high = V::iset1(0x30303030), lowest = V::iset1(63);
        for (size_t b = 0; b < columns / 32; w += 256) {
            const uint8_t* tail = w + 8 * kPart;
            V::F d[R], dmin[R];
            V::I scales[R], minimums[R];  // of four blocks of 32, one a byte
            repeat<R>([&](auto r) {
                const uint8_t* own = tail + r * tile.next;
                d[r] = halves_at(own);
                dmin[r] = halves_at(own + 32);
                scales[r] = V::iand(words(own + 64), six);
                minimums[r] = V::iand(words(own + 128), six);
            });
            for (size_t i = 0; i < 8; i++, b++, w += kPart) {
                tile.ahead.ask(b);
                if (i == 4) {
                    repeat<R>([&](auto r) {
                        const uint8_t* own = tail + r * tile.next;
                        const V::I rest = words(own + 192);
                        scales[r] = V::iadd(V::iand(rest, low), V::iand(V::template sra<2>(words(own + 64)), high));
                        minimums[r] = V::iadd(V::iand(V::template sra<4>(rest), low), V::iand(V::template sra<2>(words(own + 128)), high));
                    });
                }
                V::I dots[R * T];
                tile.start(b, dots, [&](const ActivationBlock&) { return V::iset1(0); });
                B::dot(w, b, tile, dots);
                repeat<R>([&](auto r) {
                    const V::I scale = V::iand(scales[r], lowest), minimum = V::iand(minimums[r], lowest);
                    repeat<T>([&](auto t) {
                        const size_t at = r * T + t;
                        const ActivationBlock& a = tile.tokens[t][b];
                        const V::F own = V::set1(a.scale);
                        const V::I below = V::imul(minimum, V::iset1(a.sum / 8));  // -Σq minimums
                        acc[at] = V::fma(V::mul(d[r], own), V::to_float(V::imul(dots[at], scale)), acc[at]);
                        acc[at] = V::fma(V::mul(dmin[r], own), V::to_float(below), acc[at]);
                    });
                    scales[r] = V::template sra<8>(scales[r]);
                    minimums[r] = V::template sra<8>(minimums[r]);
                });
            }
        }
    }
};

struct Q4_K : MinimumSuperblocks<Q4_K, 256> {
    template <size_t R, size_t T> static inline void dot(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) { dot_nibbles<Nibbles>(w, b, tile, dots); }
};

struct Q5_K : MinimumSuperblocks<Q5_K, 320> {
    template <size_t R, size_t T> static inline void dot(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) { dot_five_bits(w, b, tile, dots); }
};

struct IQ4_XS {
    using Input = ActivationBlock;
    template <size_t R, size_t T> static inline void run(const uint8_t* w, size_t columns, const Tile<R, T>& tile, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < columns / 32; w += 128) {
            V::F d[R];
            V::I high[R], low[R];  // of all eight blocks of 32, from the lowest bits on
            repeat<R>([&](auto r) {
                const uint8_t* tail = w + 2048 + r * tile.next;
                d[r] = halves_at(tail);
                // Two bytes a row widen as bf16 does: to the upper half of a word.
                high[r] = V::template sra<16>(V::bits(V::load_bf16(reinterpret_cast<const uint16_t*>(tail + 32))));
                low[r] = V::iload(reinterpret_cast<const int32_t*>(tail + 64));
            });
            for (size_t i = 0; i < 8; i++, b++, w += 256) {
                tile.ahead.ask(b);
                V::I dots[R * T];
                tile.start(b, dots, [&](const ActivationBlock& a) { return V::template shl<4>(V::iset1(a.sum)); });  // -8 Σq to -128 Σq
                dot_nibbles<IQ4>(w, b, tile, dots);
                repeat<R>([&](auto r) {
                    const V::I four = V::iand(low[r], V::iset1(15)), two = V::iand(high[r], V::iset1(3));
                    const V::I scale = V::iadd(V::iadd(four, V::template shl<4>(two)), V::iset1(-32));
                    repeat<T>([&](auto t) {
                        const size_t at = r * T + t;
                        acc[at] = V::fma(V::mul(d[r], V::set1(tile.tokens[t][b].scale)), V::to_float(V::imul(dots[at], scale)), acc[at]);
                    });
                    low[r] = V::template sra<4>(low[r]);
                    high[r] = V::template sra<2>(high[r]);
                });
            }
        }
    }
};

struct Q6_K {
    using Input = ActivationBlock;
    /** dots = the products of half a block. */
    template <size_t sub, size_t R, size_t T> static inline void half(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) {
        using V = Vec;
        tile.start(b, dots, [&](const ActivationBlock& a) { return V::iset1(a.sum16[sub]); });
        V::W bits[R];
        repeat<R>([&](auto r) { bits[r] = V::load_bytes(w + r * tile.next + 256 + 64 * sub); });
        repeat<4>([&](auto field) {
            constexpr int f = decltype(field)::value;
            V::W six[R];
            repeat<R>([&](auto r) {
                const V::W bytes = V::load_bytes(w + r * tile.next + 64 * f);
                six[r] = V::template join_high_bits<2 * f, 0x30>(sub ? V::high_nibbles(bytes) : V::low_nibbles(bytes), bits[r]);
            });
            tile.template dot4<true>(six, b, 16 * sub + 4 * f, dots);
        });
    }
    template <size_t R, size_t T> static inline void run(const uint8_t* w, size_t columns, const Tile<R, T>& tile, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < columns / 32; w += 32) {
            V::F scale[R];
            repeat<R>([&](auto r) { scale[r] = halves_at(w + 3328 + r * tile.next); });
            for (size_t i = 0; i < 8; i++, b++, w += 416) {
                tile.ahead.ask(b);
                V::I first[R * T], second[R * T];
                half<0>(w, b, tile, first);
                half<1>(w, b, tile, second);
                repeat<R>([&](auto r) {
                    const int8_t* scales = reinterpret_cast<const int8_t*>(w + 384 + r * tile.next);
                    const V::I s0 = V::iload_i8(scales), s1 = V::iload_i8(scales + 16);
                    repeat<T>([&](auto t) {
                        const size_t at = r * T + t;
                        const V::I sum = V::iadd(V::imul(first[at], s0), V::imul(second[at], s1));
                        acc[at] = V::fma(V::mul(scale[r], V::set1(tile.tokens[t][b].scale)), V::to_float(sum), acc[at]);
                    });
                });
            }
        }
    }
};

}  // namespace
}  // namespace tmoe
