// What matmul_simd.h does with one block of 32 columns of each quantised type (layouts: quant/repack.h). Written over Vec; include after math_simd.h.
//
// Codes are unsigned bytes; what a type's offset adds to a dot product is taken off where the dot begins, from the sums of the activations.
#pragma once

namespace tmoe {
namespace {

/** Lines of memory that a tile asks for as it goes, so that they are there when their turn comes. Hints alone: none of them need exist. */
struct ReadAhead {
    const uint8_t* from;
    size_t rate;                     ///< lines a step (a block; a column of weights that are not quantised), in 1/65536
    size_t until = SIZE_MAX;         ///< lines; those after them are the first from `then` on
    const uint8_t* then = nullptr;

    static constexpr size_t kLine = 64;

    inline void ask(size_t step) const {
        const size_t end = (step + 1) * rate >> 16;
        for (size_t line = step * rate >> 16; line < end; line++) prefetch_passing(line < until ? from + line * kLine : then + (line - until) * kLine);
    }
};

/**
 * R groups of 16 rows × T tokens, block by block. Whatever belongs to a row and a token stands at [r · T + t]; a group's weights begin `next`
 * bytes behind those of the one before.
 */
template <size_t R, size_t T> struct Tile {
    const ActivationBlock* tokens[T];
    size_t next;
    ReadAhead ahead;

    /** dots (+)= the product of each group's weights, of four columns, with each token's activations of block b from `column` on. */
    template <bool small> inline void dot4(const Vec::W (&weights)[R], size_t b, size_t column, Vec::I* dots) const {
        repeat<T>([&](auto t) {
            const int8_t* q = tokens[t][b].q + column;
            repeat<R>([&](auto r) { dots[r * T + t] = small ? Vec::dot4_small(dots[r * T + t], weights[r], q) : Vec::dot4(dots[r * T + t], weights[r], q); });
        });
    }

    /** dots = fn(a block of each token), the same for every group. */
    template <class Fn> inline void start(size_t b, Vec::I* dots, Fn fn) const {
        repeat<T>([&](auto t) {
            const Vec::I value = fn(tokens[t][b]);
            repeat<R>([&](auto r) { dots[r * T + t] = value; });
        });
    }
};

inline Vec::F halves_at(const uint8_t* w) { return Vec::load_f16(reinterpret_cast<const uint16_t*>(w)); }

/** dots += the products of a block of 32, whose weights are Codes::value of each nibble, with block b of each token. */
template <class Codes, size_t R, size_t T> inline void dot_nibbles(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) {
    using V = Vec;
    repeat<4>([&](auto g) {
        V::W low[R], high[R];
        repeat<R>([&](auto r) {
            const V::W bytes = V::load_bytes(w + r * tile.next + 64 * g);
            low[r] = Codes::value(V::low_nibbles(bytes));
            high[r] = Codes::value(V::high_nibbles(bytes));
        });
        tile.template dot4<Codes::kSmall>(low, b, 4 * g, dots);
        tile.template dot4<Codes::kSmall>(high, b, 16 + 4 * g, dots);
    });
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
template <size_t R, size_t T> inline void dot_five_bits(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) {
    using V = Vec;
    V::W bits[R];
    repeat<R>([&](auto r) { bits[r] = V::load_bytes(w + r * tile.next + 256); });
    repeat<4>([&](auto index) {
        constexpr int g = decltype(index)::value;
        V::W low[R], high[R];
        repeat<R>([&](auto r) {
            const V::W bytes = V::load_bytes(w + r * tile.next + 64 * g);
            low[r] = V::template join_high_bits<g, 0x10>(V::low_nibbles(bytes), bits[r]);
            high[r] = V::template join_high_bits<4 + g, 0x10>(V::high_nibbles(bytes), bits[r]);
        });
        tile.template dot4<true>(low, b, 4 * g, dots);
        tile.template dot4<true>(high, b, 16 + 4 * g, dots);
    });
}

/** Blocks of 32 with one scale. B gives start (the dot's, from -8 Σq), dot and scales. */
template <class B> struct ScaledBlocks {
    using Input = ActivationBlock;
    template <size_t R, size_t T> static inline void run(const uint8_t* w, size_t columns, const Tile<R, T>& tile, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < columns / 32; b++, w += B::kBytes) {
            tile.ahead.ask(b);
            V::I dots[R * T];
            tile.start(b, dots, [&](const ActivationBlock& a) { return B::start(a.sum); });
            B::dot(w, b, tile, dots);
            repeat<R>([&](auto r) {
                const V::F scale = B::scales(w + r * tile.next);
                repeat<T>([&](auto t) {
                    const size_t i = r * T + t;
                    acc[i] = V::fma(V::mul(scale, V::set1(tile.tokens[t][b].scale)), V::to_float(dots[i]), acc[i]);
                });
            });
        }
    }
};

/** Blocks of 32 with a scale and, right after it, a minimum that is added to every weight: two fma. */
template <class B> struct MinimumBlocks {
    using Input = ActivationBlock;
    template <size_t R, size_t T> static inline void run(const uint8_t* w, size_t columns, const Tile<R, T>& tile, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < columns / 32; b++, w += B::kBytes) {
            tile.ahead.ask(b);
            V::I dots[R * T];
            tile.start(b, dots, [&](const ActivationBlock&) { return V::iset1(0); });
            B::dot(w, b, tile, dots);
            repeat<R>([&](auto r) {
                const V::F scale = halves_at(w + r * tile.next + B::kScales), minimum = halves_at(w + r * tile.next + B::kScales + 32);
                repeat<T>([&](auto t) {
                    const size_t i = r * T + t;
                    const ActivationBlock& a = tile.tokens[t][b];
                    const V::F own = V::set1(a.scale);
                    acc[i] = V::fma(V::mul(scale, own), V::to_float(dots[i]), acc[i]);
                    acc[i] = V::fma(V::mul(minimum, own), V::to_float(V::iset1(a.sum / -8)), acc[i]);
                });
            });
        }
    }
};

struct Q4_0 : ScaledBlocks<Q4_0> {
    static constexpr size_t kBytes = 288;
    static inline Vec::I start(int32_t sum) { return Vec::iset1(sum); }
    template <size_t R, size_t T> static inline void dot(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) { dot_nibbles<Nibbles>(w, b, tile, dots); }
    static inline Vec::F scales(const uint8_t* w) { return halves_at(w + 256); }
};

struct Q5_0 : ScaledBlocks<Q5_0> {
    static constexpr size_t kBytes = 352;
    static inline Vec::I start(int32_t sum) { return Vec::iset1(2 * sum); }  // -16 Σq
    template <size_t R, size_t T> static inline void dot(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) { dot_five_bits(w, b, tile, dots); }
    static inline Vec::F scales(const uint8_t* w) { return halves_at(w + 320); }
};

struct Q8_0 : ScaledBlocks<Q8_0> {
    static constexpr size_t kBytes = 544;
    static inline Vec::I start(int32_t sum) { return Vec::template shl<4>(Vec::iset1(sum)); }  // -128 Σq
    template <size_t R, size_t T> static inline void dot(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) {
        repeat<8>([&](auto g) {
            Vec::W bytes[R];
            repeat<R>([&](auto r) { bytes[r] = Vec::load_bytes(w + r * tile.next + 64 * g); });
            tile.template dot4<false>(bytes, b, 4 * g, dots);
        });
    }
    static inline Vec::F scales(const uint8_t* w) { return halves_at(w + 512); }
};

struct IQ4_NL : ScaledBlocks<IQ4_NL> {
    static constexpr size_t kBytes = 288;
    static inline Vec::I start(int32_t sum) { return Vec::template shl<4>(Vec::iset1(sum)); }  // -128 Σq
    template <size_t R, size_t T> static inline void dot(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) { dot_nibbles<IQ4>(w, b, tile, dots); }
    static inline Vec::F scales(const uint8_t* w) { return halves_at(w + 256); }
};

struct MXFP4 : ScaledBlocks<MXFP4> {
    static constexpr size_t kBytes = 272;
    static inline Vec::I start(int32_t sum) { return Vec::iset1(sum / 2 * 3); }  // -12 Σq
    template <size_t R, size_t T> static inline void dot(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) { dot_nibbles<E2M1>(w, b, tile, dots); }
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
    template <size_t R, size_t T> static inline void dot(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) { dot_nibbles<Nibbles>(w, b, tile, dots); }
};

struct Q5_1 : MinimumBlocks<Q5_1> {
    static constexpr size_t kBytes = 384, kScales = 320;
    template <size_t R, size_t T> static inline void dot(const uint8_t* w, size_t b, const Tile<R, T>& tile, Vec::I* dots) { dot_five_bits(w, b, tile, dots); }
};

}  // namespace
}  // namespace tmoe
