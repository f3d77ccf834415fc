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
//   Eight parts of 32 weights with a scale and a minimum of 6 bits each (q4_k_scale). Part p, i = 0..31: the low nibble of
//   q[32 · (p / 2) + i], for odd p the high one.                         weight = d · scale · nibble − dmin · minimum
// Q5_K, 256 weights in 176 bytes: f16 d; f16 dmin; uint8 scales[12]; uint8 high[32]; uint8 q[128].
//   As Q4_K, where the code of part p's weight i is its nibble | bit p of high[i] << 4.
// MXFP4, 32 weights in 17 bytes: uint8 e; uint8 q[16].                   weight i = 2^(e − 128) · e2m1(low nibble of q[i]), weight i + 16 = the high one
//   As ggml has it, e = 255 is a scale like any other (in the OCP format it is NaN).
// Q6_K, 256 weights in 210 bytes: uint8 low[128]; uint8 high[64]; int8 scale[16]; f16 d.
//   Per half of 128 weights (64 bytes of low, 32 of high, 8 scales), l = 0..31 and quarter p = 0..3:
//   q = 4 bits of low[l + 32·(p & 1)] (the high nibble where p >= 2) | 2 bits (2p, 2p + 1) of high[l] << 4
//   weight 32·p + l = d · scale[2·p + l / 16] · (q − 32)
// IQ4_NL, 32 weights in 18 bytes: f16 d; uint8 q[16].                    weight i = d · iq4(low nibble of q[i]), weight i + 16 = the high one
// IQ4_XS, 256 weights in 136 bytes: f16 d; uint16 scales_high; uint8 scales_low[4]; uint8 q[128].
//   Eight parts of 32 weights with a scale of 6 bits each (iq4_xs_scale) and 16 bytes of q.   weight = d · scale · iq4(nibble), as IQ4_NL
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

/** 2^(e − 128), exact: half of an E8M0 scale, because e2m1 is doubled. */
TMOE_HOST_DEVICE inline float e8m0_half(uint8_t e) { return bits_float(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23); }

/** Twice the value of an E2M1 code (sign, two bits of exponent, one of mantissa), so that it is an integer. */
TMOE_HOST_DEVICE inline int e2m1(int code) {
    constexpr int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    return values[code];
}

/** What a code of IQ4_NL and IQ4_XS stands for. */
TMOE_HOST_DEVICE inline int iq4(int code) {
    constexpr int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return values[code];
}

struct SubScale {
    uint8_t scale, minimum;
};

/** Of part 0 to 7 of a Q4_K or Q5_K block's 12 bytes `scales`: six bits of a byte for parts 0 to 3, four and two of different bytes for the others. */
TMOE_HOST_DEVICE inline SubScale q4_k_scale(const uint8_t* scales, size_t part) {
    if (part < 4) return {static_cast<uint8_t>(scales[part] & 63), static_cast<uint8_t>(scales[4 + part] & 63)};
    const uint8_t low = scales[4 + part], high_scale = scales[part - 4] >> 6, high_minimum = scales[part] >> 6;
    return {static_cast<uint8_t>((low & 15) | (high_scale << 4)), static_cast<uint8_t>((low >> 4) | (high_minimum << 4))};
}

/** Of part 0 to 7 of an IQ4_XS block, −32 to 31: four bits of its `scales_low` and two of its `scales_high`, which follow d. */
TMOE_HOST_DEVICE inline int iq4_xs_scale(const uint8_t* block, size_t part) {
    const int low = (block[4 + part / 2] >> (part % 2 * 4)) & 15, high = (load_u16(block + 2) >> (2 * part)) & 3;
    return (low | (high << 4)) - 32;
}

/** Code i (0 to 31) of 16 bytes of nibbles: the low ones first. */
TMOE_HOST_DEVICE inline int nibble_at(const uint8_t* q, size_t i) { return (q[i % 16] >> (i / 16 * 4)) & 15; }

/** Code i of 32 of five bits each: the four bytes at `high`, then the nibbles. */
TMOE_HOST_DEVICE inline int five_bits_at(const uint8_t* high, size_t i) { return nibble_at(high + 4, i) | (((high[i / 8] >> (i % 8)) & 1) << 4); }

/** Code i of part 0 to 7 of 128 bytes of nibbles, of which two parts share 32 bytes. */
TMOE_HOST_DEVICE inline int k_nibble_at(const uint8_t* q, size_t part, size_t i) { return (q[part / 2 * 32 + i] >> (part % 2 * 4)) & 15; }

/** Code i of part 0 to 7 of a Q6_K block, 0 to 63. */
TMOE_HOST_DEVICE inline int q6_k_code(const uint8_t* block, size_t part, size_t i) {
    const size_t half = part / 4, quarter = part % 4;
    const int low = (block[64 * half + 32 * (quarter % 2) + i] >> (quarter / 2 * 4)) & 15, high = (block[128 + 32 * half + i] >> (2 * quarter)) & 3;
    return low | (high << 4);
}

// A quantised row in parts of 32 columns, `part` counted inside a block: 0, in blocks of 256 weights 0 to 7. Weight i of a part is
// scale · sub_scale_at · code_at, less minimum · below in types with a minimum. These products are exact in a float, or (MXFP4) infinite.

/** True where a part's codes begin at a minimum. */
TMOE_HOST_DEVICE constexpr bool has_minimum(DType type) {
    return type == DType::Q4_1 || type == DType::Q5_1 || type == DType::Q4_K || type == DType::Q5_K;
}

struct PartScales {
    float scale, minimum;
    int below;   ///< −1 where the file's minimum is added
};

TMOE_HOST_DEVICE inline PartScales scales_of(DType type, const uint8_t* block, size_t part) {
    if (type == DType::MXFP4) return {e8m0_half(block[0]), 0, 0};
    const float d = f16_to_f32(load_u16(block + (type == DType::Q6_K ? 208 : 0)));
    if (!has_minimum(type)) return {d, 0, 0};
    const bool small = type == DType::Q4_1 || type == DType::Q5_1;
    return {d, f16_to_f32(load_u16(block + 2)), small ? -1 : q4_k_scale(block + 4, part).minimum};
}

TMOE_HOST_DEVICE inline int sub_scale_at(DType type, const uint8_t* block, size_t part, size_t i) {
    if (type == DType::Q4_K || type == DType::Q5_K) return q4_k_scale(block + 4, part).scale;
    if (type == DType::Q6_K) return static_cast<int8_t>(block[192 + 2 * part + i / 16]);
    return type == DType::IQ4_XS ? iq4_xs_scale(block, part) : 1;
}

TMOE_HOST_DEVICE inline int code_at(DType type, const uint8_t* block, size_t part, size_t i) {
    switch (type) {
        case DType::Q8_0: return static_cast<int8_t>(block[2 + i]);
        case DType::Q4_0: return nibble_at(block + 2, i) - 8;
        case DType::Q4_1: return nibble_at(block + 4, i);
        case DType::Q5_0: return five_bits_at(block + 2, i) - 16;
        case DType::Q5_1: return five_bits_at(block + 4, i);
        case DType::Q4_K: return k_nibble_at(block + 16, part, i);
        case DType::Q5_K: return k_nibble_at(block + 48, part, i) | (((block[16 + i] >> part) & 1) << 4);
        case DType::Q6_K: return q6_k_code(block, part, i) - 32;
        case DType::MXFP4: return e2m1(nibble_at(block + 1, i));
        case DType::IQ4_NL: return iq4(nibble_at(block + 2, i));
        case DType::IQ4_XS: return iq4(nibble_at(block + 8 + 16 * part, i));
        default: return 0;
    }
}

TMOE_HOST_DEVICE inline float weight_at(DType type, const PartScales& scales, const uint8_t* block, size_t part, size_t i) {
    const float product = scales.scale * static_cast<float>(sub_scale_at(type, block, part, i)) * static_cast<float>(code_at(type, block, part, i));
    return has_minimum(type) ? product - scales.minimum * static_cast<float>(scales.below) : product;
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
