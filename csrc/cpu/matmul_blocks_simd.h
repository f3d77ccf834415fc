// What matmul_simd.h does with one block of 32 columns of each quantised type (layouts: quant/repack.h). Written over Vec; include after math_simd.h.
//
// Codes are unsigned bytes; what a type's offset adds to a dot product is taken off where the dot begins, from the sums of the activations.
#pragma once

namespace tmoe {
namespace {

/** Activations of a tile's tokens, side by side for each block of 32. */
struct Panel {
    static constexpr size_t kColumns = 2048;  // a multiple of every block; 12 tokens × 2048 int8 fill half of an L1 cache
    alignas(64) int8_t q[Vec::kTileTokens * kColumns];
    alignas(64) float scale[Vec::kTileTokens * kColumns / 32];
    alignas(64) int32_t sum[Vec::kTileTokens * kColumns / 32], sum16[Vec::kTileTokens * kColumns / 16];  // Q6_K has the second, other types the first
};

inline Vec::F halves_at(const uint8_t* w) { return Vec::load_f16(reinterpret_cast<const uint16_t*>(w)); }

/** dot[t] += the dot product of a block of 32, whose weights are Codes::value of each nibble, with token t's activations. */
template <class Codes, size_t T> inline void dot_nibbles(const uint8_t* w, const int8_t* q, Vec::I* dot) {
    using V = Vec;
    const auto add = [&](V::W values, const int8_t* own) {
        for (size_t t = 0; t < T; t++) dot[t] = Codes::kSmall ? V::dot4_small(dot[t], values, own + t * 32) : V::dot4(dot[t], values, own + t * 32);
    };
    for (size_t g = 0; g < 4; g++) {
        const V::W bytes = V::load_bytes(w + 64 * g);
        const V::W low = Codes::value(V::low_nibbles(bytes)), high = Codes::value(V::high_nibbles(bytes));
        add(low, q + 4 * g);
        add(high, q + 16 + 4 * g);
    }
}

struct Nibbles {
    static constexpr bool kSmall = true;   // values up to 63
    static inline Vec::W value(Vec::W nibbles) { return nibbles; }
};

/** e2m1 + 12. */
struct E2M1 {
    static constexpr bool kSmall = true;
    static inline Vec::W value(Vec::W nibbles) {
        static constexpr uint8_t values[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
        return Vec::look_up(values, nibbles);
    }
};

/** iq4 + 128. */
struct IQ4 {
    static constexpr bool kSmall = false;
    static inline Vec::W value(Vec::W nibbles) {
        static constexpr uint8_t values[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
        return Vec::look_up(values, nibbles);
    }
};

/** As dot_nibbles with Nibbles, of codes of five bits: their high ones follow the nibbles. */
template <size_t T> inline void dot_five_bits(const uint8_t* w, const int8_t* q, Vec::I* dot) {
    using V = Vec;
    const V::W bits = V::load_bytes(w + 256);
    const auto group = [&](auto index) {
        constexpr int g = decltype(index)::value;
        const V::W bytes = V::load_bytes(w + 64 * g);
        const V::W low = V::template join_high_bits<g, 0x10>(V::low_nibbles(bytes), bits);
        const V::W high = V::template join_high_bits<4 + g, 0x10>(V::high_nibbles(bytes), bits);
        for (size_t t = 0; t < T; t++) dot[t] = V::dot4_small(dot[t], low, q + t * 32 + 4 * g);
        for (size_t t = 0; t < T; t++) dot[t] = V::dot4_small(dot[t], high, q + t * 32 + 16 + 4 * g);
    };
    group(std::integral_constant<int, 0>{});
    group(std::integral_constant<int, 1>{});
    group(std::integral_constant<int, 2>{});
    group(std::integral_constant<int, 3>{});
}

/** Blocks of 32 with one scale. B gives start (the dot's, from -8 Σq), dot and scales. */
template <class B> struct ScaledBlocks {
    using Inputs = Panel;
    template <size_t T> static inline void run(const uint8_t* w, size_t columns, const Panel& p, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < columns / 32; b++, w += B::kBytes) {
            V::I dot[T];
            for (size_t t = 0; t < T; t++) dot[t] = B::start(p.sum[b * T + t]);
            B::template dot<T>(w, p.q + b * 32 * T, dot);
            const V::F scale = B::scales(w);
            for (size_t t = 0; t < T; t++) {
                acc[t] = V::fma(V::mul(scale, V::set1(p.scale[b * T + t])), V::to_float(dot[t]), acc[t]);
            }
        }
    }
};

/** Blocks of 32 with a scale and, right after it, a minimum that is added to every weight: two fma. */
template <class B> struct MinimumBlocks {
    using Inputs = Panel;
    template <size_t T> static inline void run(const uint8_t* w, size_t columns, const Panel& p, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < columns / 32; b++, w += B::kBytes) {
            V::I dot[T];
            for (size_t t = 0; t < T; t++) dot[t] = V::iset1(0);
            B::template dot<T>(w, p.q + b * 32 * T, dot);
            const V::F scale = halves_at(w + B::kScales), minimum = halves_at(w + B::kScales + 32);
            for (size_t t = 0; t < T; t++) {
                const V::F own = V::set1(p.scale[b * T + t]);
                acc[t] = V::fma(V::mul(scale, own), V::to_float(dot[t]), acc[t]);
                acc[t] = V::fma(V::mul(minimum, own), V::to_float(V::iset1(p.sum[b * T + t] / -8)), acc[t]);
            }
        }
    }
};

struct Q4_0 : ScaledBlocks<Q4_0> {
    static constexpr size_t kBytes = 288;
    static inline Vec::I start(int32_t sum) { return Vec::iset1(sum); }
    template <size_t T> static inline void dot(const uint8_t* w, const int8_t* q, Vec::I* dot) { dot_nibbles<Nibbles, T>(w, q, dot); }
    static inline Vec::F scales(const uint8_t* w) { return halves_at(w + 256); }
};

struct Q5_0 : ScaledBlocks<Q5_0> {
    static constexpr size_t kBytes = 352;
    static inline Vec::I start(int32_t sum) { return Vec::iset1(2 * sum); }  // -16 Σq
    template <size_t T> static inline void dot(const uint8_t* w, const int8_t* q, Vec::I* dot) { dot_five_bits<T>(w, q, dot); }
    static inline Vec::F scales(const uint8_t* w) { return halves_at(w + 320); }
};

struct Q8_0 : ScaledBlocks<Q8_0> {
    static constexpr size_t kBytes = 544;
    static inline Vec::I start(int32_t sum) { return Vec::template shl<4>(Vec::iset1(sum)); }  // -128 Σq
    template <size_t T> static inline void dot(const uint8_t* w, const int8_t* q, Vec::I* dot) {
        for (size_t g = 0; g < 8; g++) {
            const Vec::W bytes = Vec::load_bytes(w + 64 * g);
            for (size_t t = 0; t < T; t++) dot[t] = Vec::dot4(dot[t], bytes, q + t * 32 + 4 * g);
        }
    }
    static inline Vec::F scales(const uint8_t* w) { return halves_at(w + 512); }
};

struct IQ4_NL : ScaledBlocks<IQ4_NL> {
    static constexpr size_t kBytes = 288;
    static inline Vec::I start(int32_t sum) { return Vec::template shl<4>(Vec::iset1(sum)); }  // -128 Σq
    template <size_t T> static inline void dot(const uint8_t* w, const int8_t* q, Vec::I* dot) { dot_nibbles<IQ4, T>(w, q, dot); }
    static inline Vec::F scales(const uint8_t* w) { return halves_at(w + 256); }
};

struct MXFP4 : ScaledBlocks<MXFP4> {
    static constexpr size_t kBytes = 272;
    static inline Vec::I start(int32_t sum) { return Vec::iset1(sum / 2 * 3); }  // -12 Σq
    template <size_t T> static inline void dot(const uint8_t* w, const int8_t* q, Vec::I* dot) { dot_nibbles<E2M1, T>(w, q, dot); }
    /** 2^(e − 128) of 16 exponents, as a product of two powers: denormals, of e = 0 and 1, have no exponent bits of their own. */
    static inline Vec::F scales(const uint8_t* w) {
        using V = Vec;
        const V::I e = V::iand(V::iload_i8(reinterpret_cast<const int8_t*>(w + 256)), V::iset1(255));
        const V::I low = V::template sra<1>(e), high = V::template sra<1>(V::iadd(e, V::iset1(1)));
        return V::mul(V::from_bits(V::template shl<23>(V::iadd(low, V::iset1(127 - 63)))),
                      V::from_bits(V::template shl<23>(V::iadd(high, V::iset1(127 - 65)))));
    }
};

struct Q4_1 : MinimumBlocks<Q4_1> {
    static constexpr size_t kBytes = 320, kScales = 256;
    template <size_t T> static inline void dot(const uint8_t* w, const int8_t* q, Vec::I* dot) { dot_nibbles<Nibbles, T>(w, q, dot); }
};

struct Q5_1 : MinimumBlocks<Q5_1> {
    static constexpr size_t kBytes = 384, kScales = 320;
    template <size_t T> static inline void dot(const uint8_t* w, const int8_t* q, Vec::I* dot) { dot_five_bits<T>(w, q, dot); }
};

}  // namespace
}  // namespace tmoe
