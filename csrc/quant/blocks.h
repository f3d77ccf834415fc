// Block layouts of weights in a GGUF file: number formats, decoding to float, encoding of Q8_0 and Q4_0.
//
// F16, BF16: one little-endian 16-bit number a weight.
// Q8_0, 32 weights in 34 bytes: f16 d; int8 q[32].                       weight i = d · q[i]
// Q4_0, 32 weights in 18 bytes: f16 d; uint8 q[16].                      weight i = d · (low nibble of q[i] − 8), weight i + 16 = the high one
// Q4_1, 32 weights in 20 bytes: f16 d; f16 m; uint8 q[16].               weight i = d · (low nibble of q[i]) + m, weight i + 16 = the high one
// Q5_0, 32 weights in 22 bytes: f16 d; uint32 high; uint8 q[16].         code i = low nibble of q[i] | bit i of high << 4, code i + 16 = the high
//   nibble | bit i + 16 of high << 4; weight = d · (code − 16)
// Q5_1, 32 weights in 24 bytes: f16 d; f16 m; uint32 high; uint8 q[16].  weight = d · code + m, codes as Q5_0
// Q4_K, 256 weights in 144 bytes: f16 d; f16 dmin; uint8 scales[12]; uint8 q[128].
//   Eight blocks of 32 weights with a scale and a minimum of 6 bits each (q4_k_scale). Block b, i = 0..31: the low nibble of
//   q[32 · (b / 2) + i], for odd b the high one.                         weight = d · scale · nibble − dmin · minimum
// Q5_K, 256 weights in 176 bytes: f16 d; f16 dmin; uint8 scales[12]; uint8 high[32]; uint8 q[128].
//   As Q4_K, where the code of block b's weight i is its nibble | bit b of high[i] << 4.
// MXFP4, 32 weights in 17 bytes: uint8 e; uint8 q[16].                   weight i = 2^(e − 128) · kE2M1[low nibble of q[i]], weight i + 16 = the high one
//   As ggml has it, e = 255 is a scale like any other (in the OCP format it is NaN).
// Q6_K, 256 weights in 210 bytes: uint8 low[128]; uint8 high[64]; int8 scale[16]; f16 d.
//   Per half of 128 weights (64 bytes of low, 32 of high, 8 scales), l = 0..31 and quarter p = 0..3:
//   q = 4 bits of low[l + 32·(p & 1)] (the high nibble where p >= 2) | 2 bits (2p, 2p + 1) of high[l] << 4
//   weight 32·p + l = d · scale[2·p + l / 16] · (q − 32)
// IQ4_NL, 32 weights in 18 bytes: f16 d; uint8 q[16].                    weight i = d · kIQ4[low nibble of q[i]], weight i + 16 = the high one
// IQ4_XS, 256 weights in 136 bytes: f16 d; uint16 scales_high; uint8 scales_low[4]; uint8 q[128].
//   Eight blocks of 32 weights with a scale of 6 bits each (iq4_xs_scale) and 16 bytes of q.  weight = d · scale · kIQ4[nibble], as IQ4_NL
// Source: the block structs of ggml (ggml-common.h) as the GGUF specification refers to them; OCP Microscaling Formats 1.0 for E2M1 and E8M0.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"
#include "quant/types.h"

namespace tmoe {

TMOE_HOST_DEVICE inline uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
TMOE_HOST_DEVICE inline float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/** Exact. NaN keeps its sign and payload, made quiet. */
TMOE_HOST_DEVICE inline float f16_to_f32(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1fu, fraction = half & 0x3ffu;
    if (exponent == 0x1f) return bits_float(sign | 0x7f800000u | (fraction ? 0x400000u : 0u) | (fraction << 13));
    if (exponent != 0) return bits_float(sign | ((exponent + 112) << 23) | (fraction << 13));
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // exact: at most 10 bits times a power of two
    return bits_float(sign | float_bits(magnitude));
}

/** Round to nearest even; overflow is infinity, NaN stays a (quiet) NaN. */
TMOE_HOST_DEVICE inline uint16_t f32_to_f16(float value) {
    const uint32_t bits = float_bits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above
    if (magnitude >= 0x38800000u) {                                             // normal in f16
        const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
        return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
    }
    if (magnitude < 0x33000000u) return static_cast<uint16_t>(sign);  // below half of the smallest subnormal
    const uint32_t shift = 126 - (magnitude >> 23);                   // 14 to 24
    const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    return static_cast<uint16_t>(sign | (kept + (rest > half || (rest == half && (kept & 1u)) ? 1u : 0u)));
}

/** Exact. */
TMOE_HOST_DEVICE inline float bf16_to_f32(uint16_t value) { return bits_float(static_cast<uint32_t>(value) << 16); }

/** Round to nearest even; NaN stays a (quiet) NaN. */
TMOE_HOST_DEVICE inline uint16_t f32_to_bf16(float value) {
    const uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

TMOE_HOST_DEVICE inline uint16_t load_u16(const uint8_t* from) {
    return static_cast<uint16_t>(from[0] | (static_cast<uint16_t>(from[1]) << 8));
}
TMOE_HOST_DEVICE inline void store_u16(uint8_t* to, uint16_t value) {
    to[0] = static_cast<uint8_t>(value);
    to[1] = static_cast<uint8_t>(value >> 8);
}

/** Twice the value of each E2M1 code (sign, two bits of exponent, one of mantissa), so that it is an integer. */
inline constexpr int8_t kE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/** What the codes of IQ4_NL and IQ4_XS stand for. */
inline constexpr int8_t kIQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/** 2^(e − 128), exact: half of an E8M0 scale, because kE2M1 is doubled. */
TMOE_HOST_DEVICE inline float e8m0_half(uint8_t e) { return bits_float(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23); }

struct SubScale {
    uint8_t scale, minimum;
};

/** Of block 0 to 7 of a Q4_K or Q5_K block's 12 bytes `scales`: six bits of a byte for blocks 0 to 3, four and two of different bytes for the others. */
TMOE_HOST_DEVICE inline SubScale q4_k_scale(const uint8_t* scales, size_t block) {
    if (block < 4) return {static_cast<uint8_t>(scales[block] & 63), static_cast<uint8_t>(scales[4 + block] & 63)};
    const uint8_t low = scales[4 + block], high_scale = scales[block - 4] >> 6, high_minimum = scales[block] >> 6;
    return {static_cast<uint8_t>((low & 15) | (high_scale << 4)), static_cast<uint8_t>((low >> 4) | (high_minimum << 4))};
}

/** Of block 0 to 7 of an IQ4_XS block, −32 to 31: four bits of its `scales_low` and two of its `scales_high`, which follow d. */
TMOE_HOST_DEVICE inline int iq4_xs_scale(const uint8_t* from, size_t block) {
    const int low = (from[4 + block / 2] >> (block % 2 * 4)) & 15, high = (load_u16(from + 2) >> (2 * block)) & 3;
    return (low | (high << 4)) - 32;
}

/** Weight 0 to 31 of 16 bytes of nibbles: the low ones first. */
TMOE_HOST_DEVICE inline int nibble_at(const uint8_t* q, size_t i) { return (q[i % 16] >> (i / 16 * 4)) & 15; }

/** Code 0 to 31 of a block of five bits each: the four bytes at `high`, then the nibbles. */
TMOE_HOST_DEVICE inline int five_bits_at(const uint8_t* high, size_t i) { return nibble_at(high + 4, i) | (((high[i / 8] >> (i % 8)) & 1) << 4); }

/** Weight 0 to 255 of a Q5_K block, 0 to 31. */
TMOE_HOST_DEVICE inline int q5_k_code(const uint8_t* block, size_t i) {
    const int nibble = (block[48 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4)) & 15;
    return nibble | (((block[16 + i % 32] >> (i / 32)) & 1) << 4);
}

/** Decodes `columns` weights (a multiple of the type's block) at `from` to floats. The pointers need no alignment and do not overlap. */
void decode_row(DType type, const uint8_t* from, float* to, size_t columns);

/** True for the types that encode_row can write: F32, F16, BF16, Q8_0 and Q4_0. */
inline bool can_encode(DType type) { return !is_quantised(type) || type == DType::Q8_0 || type == DType::Q4_0; }

/**
 * Encodes `columns` floats (a multiple of the type's block) into the file's layout.
 * Q8_0: d = max|x| / 127, q = x / d rounded, halves away from zero. Q4_0: d = (the x of largest magnitude) / −8, q = x / d + 8.5 cut off, at most 15.
 * Returns false, with `to` unspecified, where a value is not finite or a scale overflows f16: such a row has no encoding.
 */
[[nodiscard]] bool encode_row(DType type, const float* from, uint8_t* to, size_t columns);

}  // namespace tmoe
