// Blocks of 32 columns of the kernels' layout (quant/repack.h) as matmul reads them: int8 words, and what turns a block's integer dot
// into the terms p · s of its fma chain.
//
// `pair` gives a row's columns 4g … 4g + 3 and 16 + 4g … 16 + 4g + 3: what one lane of mma.sync holds, and four of them make a whole block.
// Values come with the offset that their type stores them with; `terms` is given the dots of both halves started at `first_start` and
// `second_start` (of one half: where kHalves is false the whole dot is the first), so that the offset cancels.
#pragma once
#include "cuda/device.h"

namespace tmoe {
namespace cuda {

struct Term {
    float p, s;   ///< acc = fma(p, s, acc)
};

__device__ inline uint32_t word_at(const uint8_t* at) { return *reinterpret_cast<const uint32_t*>(at); }
__device__ inline float half_at(const uint8_t* at) { return half_to_float(*reinterpret_cast<const uint16_t*>(at)); }

/** The sums of an activation block: -8 Σq over 32, -32 Σq over each 16 (ActivationBlock). */
struct BlockSums {
    int32_t all, first, second;
};

/** The nibbles of a group of columns. */
__device__ inline void nibble_pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) {
    const uint32_t word = word_at(at + 64 * g + 4 * row);
    low = word & 0x0f0f0f0fu;
    high = (word >> 4) & 0x0f0f0f0fu;
}

/** Codes of five bits: the high ones follow the nibbles, bit g of byte c being that of column 4g + c. */
__device__ inline void five_bits_pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) {
    nibble_pair(at, row, g, low, high);
    const uint32_t bits = word_at(at + 256 + 4 * row);
    low |= ((bits >> g) & 0x01010101u) << 4;
    high |= ((bits >> (4 + g)) & 0x01010101u) << 4;
}

/** Blocks of 32 with one scale at `kScales`. */
template <size_t kBytes, size_t kScales> struct PackedScaled {
    static constexpr bool kHalves = false;
    static constexpr unsigned kTerms = 1;
    struct Row {
        float scale;
    };
    static __device__ const uint8_t* block(const uint8_t* group, size_t b) { return group + b * kBytes; }
    static __device__ Row row(const uint8_t*, size_t, const uint8_t* at, unsigned row) { return {half_at(at + kScales + 2 * row)}; }
    static __device__ int first_start(const BlockSums&) { return 0; }
    static __device__ int second_start(const BlockSums&) { return 0; }
    static __device__ void terms(const Row& row, int first, int, float scale, const BlockSums&, Term* out) { out[0] = {row.scale * scale, static_cast<float>(first)}; }
};

struct PackedQ4_0 : PackedScaled<288, 256> {
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) { nibble_pair(at, row, g, low, high); }
    static __device__ int first_start(const BlockSums& sums) { return sums.all; }  // -8 Σq
};

struct PackedQ5_0 : PackedScaled<352, 320> {
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) { five_bits_pair(at, row, g, low, high); }
    static __device__ int first_start(const BlockSums& sums) { return 2 * sums.all; }  // -16 Σq
};

struct PackedQ8_0 : PackedScaled<544, 512> {
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) {
        low = word_at(at + 64 * g + 4 * row) ^ 0x80808080u;  // stored as q + 128
        high = word_at(at + 256 + 64 * g + 4 * row) ^ 0x80808080u;
    }
};

/** A scale at `kScales` of each block and right after it a minimum that is added to every weight. */
template <size_t kBytes, size_t kScales> struct PackedMinimum {
    static constexpr bool kHalves = false;
    static constexpr unsigned kTerms = 2;   // the second is that of the minimum
    struct Row {
        float scale, minimum;
    };
    static __device__ const uint8_t* block(const uint8_t* group, size_t b) { return group + b * kBytes; }
    static __device__ Row row(const uint8_t*, size_t, const uint8_t* at, unsigned row) { return {half_at(at + kScales + 2 * row), half_at(at + kScales + 32 + 2 * row)}; }
    static __device__ int first_start(const BlockSums&) { return 0; }
    static __device__ int second_start(const BlockSums&) { return 0; }
    static __device__ void terms(const Row& row, int first, int, float scale, const BlockSums& sums, Term* out) {
        out[0] = {row.scale * scale, static_cast<float>(first)};
        out[1] = {row.minimum * scale, static_cast<float>(sums.all / -8)};  // Σq
    }
};

struct PackedQ4_1 : PackedMinimum<320, 256> {
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) { nibble_pair(at, row, g, low, high); }
};

struct PackedQ5_1 : PackedMinimum<384, 320> {
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) { five_bits_pair(at, row, g, low, high); }
};

struct PackedQ6_K {
    static constexpr bool kHalves = true;
    static constexpr unsigned kTerms = 1;
    struct Row {
        float scale;
        int first, second;   ///< sub-scales
    };
    static __device__ const uint8_t* block(const uint8_t* group, size_t b) { return group + b / 8 * 3360 + b % 8 * 416; }
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) {
        const uint32_t word = word_at(at + 64 * g + 4 * row);
        low = (word & 0x0f0f0f0fu) | (((word_at(at + 256 + 4 * row) >> (2 * g)) & 0x03030303u) << 4);
        high = ((word >> 4) & 0x0f0f0f0fu) | (((word_at(at + 320 + 4 * row) >> (2 * g)) & 0x03030303u) << 4);
    }
    static __device__ Row row(const uint8_t* group, size_t b, const uint8_t* at, unsigned row) {
        return {half_at(group + b / 8 * 3360 + 3328 + 2 * row), static_cast<int8_t>(at[384 + row]), static_cast<int8_t>(at[400 + row])};
    }
    static __device__ int first_start(const BlockSums& sums) { return sums.first; }
    static __device__ int second_start(const BlockSums& sums) { return sums.second; }
    static __device__ void terms(const Row& row, int first, int second, float scale, const BlockSums&, Term* out) {
        out[0] = {row.scale * scale, static_cast<float>(first * row.first + second * row.second)};
    }
};

struct PackedMXFP4 : PackedScaled<272, 256> {
    /** Four codes to 12 + their doubled values: magnitudes 0, 1, 2, 3, 4, 6, 8, 12, then the sign. No byte carries into the next. */
    static __device__ uint32_t values(uint32_t codes) {
        const uint32_t c = codes & 0x07070707u, high = (c >> 2) & 0x01010101u, both = (c >> 1) & high;
        const uint32_t magnitude = c + (c & (high * 3)) + ((c & both) << 1), sign = ((codes >> 3) & 0x01010101u) * 255;
        return 0x0c0c0c0cu + (magnitude & ~sign) - (magnitude & sign);
    }
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) {
        const uint32_t word = word_at(at + 64 * g + 4 * row);
        low = values(word & 0x0f0f0f0fu);
        high = values((word >> 4) & 0x0f0f0f0fu);
    }
    static __device__ Row row(const uint8_t*, size_t, const uint8_t* at, unsigned row) { return {e8m0_half(at[256 + row])}; }
    static __device__ int first_start(const BlockSums& sums) { return sums.all / 2 * 3; }  // -8 Σq to -12 Σq
};

/** Four codes, one a byte, to the values of iq4 as signed bytes: a choice by each bit of the codes. */
__device__ inline uint32_t iq4_values(uint32_t codes) {
    const auto mask = [&](unsigned bit) { return ((codes >> bit) & 0x01010101u) * 255; };
    const auto pick = [](uint32_t by, uint32_t zero, uint32_t one) { return zero ^ ((zero ^ one) & by); };
    const uint32_t m0 = mask(0), m1 = mask(1), m2 = mask(2);
    const auto four = [&](uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
        const uint32_t every = 0x01010101u;
        return pick(m1, pick(m0, a * every, b * every), pick(m0, c * every, d * every));
    };
    const uint32_t negative = pick(m2, four(0x81, 0x98, 0xad, 0xbf), four(0xcf, 0xdd, 0xea, 0xf6));   // -127 … -65, -49 … -10
    return pick(mask(3), negative, pick(m2, four(1, 13, 25, 38), four(53, 69, 89, 113)));
}

struct PackedIQ4_NL : PackedScaled<288, 256> {
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) {
        const uint32_t word = word_at(at + 64 * g + 4 * row);
        low = iq4_values(word);
        high = iq4_values(word >> 4);
    }
};

struct PackedIQ4_XS {
    static constexpr bool kHalves = false;
    static constexpr unsigned kTerms = 1;
    struct Row {
        float d;
        int scale;
    };
    static __device__ const uint8_t* block(const uint8_t* group, size_t b) { return group + b / 8 * 2176 + b % 8 * 256; }
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) { PackedIQ4_NL::pair(at, row, g, low, high); }
    static __device__ Row row(const uint8_t* group, size_t b, const uint8_t*, unsigned row) {
        const uint8_t* tail = group + b / 8 * 2176 + 2048;
        const uint32_t part = static_cast<uint32_t>(b % 8);
        const uint32_t four = (word_at(tail + 64 + 4 * row) >> (4 * part)) & 15, two = (uint32_t{*reinterpret_cast<const uint16_t*>(tail + 32 + 2 * row)} >> (2 * part)) & 3;
        return {half_at(tail + 2 * row), static_cast<int>(four | (two << 4)) - 32};
    }
    static __device__ int first_start(const BlockSums&) { return 0; }
    static __device__ int second_start(const BlockSums&) { return 0; }
    static __device__ void terms(const Row& row, int first, int, float scale, const BlockSums&, Term* out) { out[0] = {row.d * scale, static_cast<float>(row.scale * first)}; }
};

/** Q4_K and Q5_K: blocks of `kPart` bytes, then d, dmin and the words of 6-bit scales. */
template <size_t kPart> struct PackedK {
    static constexpr bool kHalves = false;
    static constexpr unsigned kTerms = 2;   // the second is that of the minimums
    static constexpr size_t kBytes = 8 * kPart + 256;
    struct Row {
        float d, dmin;
        int scale, minimum;
    };
    static __device__ const uint8_t* block(const uint8_t* group, size_t b) { return group + b / 8 * kBytes + b % 8 * kPart; }
    static __device__ Row row(const uint8_t* group, size_t b, const uint8_t*, unsigned row) {
        const uint8_t* tail = group + b / 8 * kBytes + 8 * kPart;
        const uint32_t first = word_at(tail + 64 + 4 * row), second = word_at(tail + 128 + 4 * row), rest = word_at(tail + 192 + 4 * row);
        const bool early = b % 8 < 4;
        const uint32_t scales = early ? first & 0x3f3f3f3fu : (rest & 0x0f0f0f0fu) | ((first >> 2) & 0x30303030u);
        const uint32_t minimums = early ? second & 0x3f3f3f3fu : ((rest >> 4) & 0x0f0f0f0fu) | ((second >> 2) & 0x30303030u);
        const unsigned shift = b % 4 * 8;
        return {half_at(tail + 2 * row), half_at(tail + 32 + 2 * row), static_cast<int>((scales >> shift) & 63), static_cast<int>((minimums >> shift) & 63)};
    }
    static __device__ int first_start(const BlockSums&) { return 0; }
    static __device__ int second_start(const BlockSums&) { return 0; }
    static __device__ void terms(const Row& row, int first, int, float scale, const BlockSums& sums, Term* out) {
        out[0] = {row.d * scale, static_cast<float>(row.scale * first)};
        out[1] = {row.dmin * scale, static_cast<float>(row.minimum * (sums.all / 8))};  // -Σq minimums
    }
};

struct PackedQ4_K : PackedK<256> {
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) { nibble_pair(at, row, g, low, high); }
};

struct PackedQ5_K : PackedK<320> {
    static __device__ void pair(const uint8_t* at, unsigned row, unsigned g, uint32_t& low, uint32_t& high) { five_bits_pair(at, row, g, low, high); }
};

/** Weights that are not quantised: one fma per column. */
struct PackedF32 {
    static __device__ float value(const uint8_t* group, size_t column, unsigned row) { return reinterpret_cast<const float*>(group)[column * 16 + row]; }
};
struct PackedF16 {
    static __device__ float value(const uint8_t* group, size_t column, unsigned row) { return half_to_float(reinterpret_cast<const uint16_t*>(group)[column * 16 + row]); }
};
struct PackedBF16 {
    static __device__ float value(const uint8_t* group, size_t column, unsigned row) { return bf16_to_f32(reinterpret_cast<const uint16_t*>(group)[column * 16 + row]); }
};

}  // namespace cuda
}  // namespace tmoe
