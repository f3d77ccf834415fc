#include "quant/blocks.h"

#include <cmath>

namespace tmoe {

namespace {

constexpr uint32_t kInfinity = 0x7f800000u;

bool finite(float value) { return (float_bits(value) & kInfinity) != kInfinity; }

template <DType type> void decode_blocks(const uint8_t* from, float* to, size_t columns) {
    const DTypeInfo& info = dtype_info(type);
    for (size_t column = 0; column < columns; column += 32, to += 32) {
        const uint8_t* block = from + column / info.block * info.bytes;
        const size_t part = column % info.block / 32;
        const PartScales scales = scales_of(type, block, part);
        const auto some = [&](size_t first, size_t last) {
            for (size_t i = first; i < last; i++) to[i] = weight_at(type, scales, block, part, i);
        };
        // Where the halves of a part differ in their places, loops of one half each are what compilers vectorise.
        if (type == DType::Q8_0 || type == DType::Q4_K || type == DType::Q5_K) {
            some(0, 32);
        } else {
            some(0, 16);
            some(16, 32);
        }
    }
}

bool encode_q8_0(const float* from, uint8_t* to) {
    float largest = 0;
    for (int i = 0; i < 32; i++) {
        if (!finite(from[i])) return false;
        largest = std::fmax(largest, std::fabs(from[i]));
    }
    const float d = largest / 127.0f;
    float inverse = d != 0 ? 1.0f / d : 0.0f;
    if (!finite(inverse)) inverse = 0;  // a scale that small is 0 in f16
    const uint16_t half = f32_to_f16(d);
    store_u16(to, half);
    for (int i = 0; i < 32; i++) to[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::round(from[i] * inverse)));
    return finite(f16_to_f32(half));
}

bool encode_q4_0(const float* from, uint8_t* to) {
    float largest = 0;  // with its sign
    for (int i = 0; i < 32; i++) {
        if (!finite(from[i])) return false;
        if (std::fabs(from[i]) > std::fabs(largest)) largest = from[i];
    }
    const float d = largest / -8.0f;
    float inverse = d != 0 ? 1.0f / d : 0.0f;
    if (!finite(inverse)) inverse = 0;
    const uint16_t half = f32_to_f16(d);
    store_u16(to, half);
    for (int i = 0; i < 16; i++) {
        const int low = static_cast<int>(from[i] * inverse + 8.5f), high = static_cast<int>(from[i + 16] * inverse + 8.5f);
        to[2 + i] = static_cast<uint8_t>((low < 15 ? low : 15) | ((high < 15 ? high : 15) << 4));
    }
    return finite(f16_to_f32(half));
}

}  // namespace

void decode_row(DType type, const uint8_t* from, float* to, size_t columns) {
    switch (type) {
        case DType::F32:
            if (columns) memcpy(to, from, columns * sizeof(float));
            return;
        case DType::F16:
            for (size_t i = 0; i < columns; i++) to[i] = f16_to_f32(load_u16(from + 2 * i));
            return;
        case DType::BF16:
            for (size_t i = 0; i < columns; i++) to[i] = bf16_to_f32(load_u16(from + 2 * i));
            return;
        case DType::Q8_0: return decode_blocks<DType::Q8_0>(from, to, columns);
        case DType::Q4_0: return decode_blocks<DType::Q4_0>(from, to, columns);
        case DType::Q4_1: return decode_blocks<DType::Q4_1>(from, to, columns);
        case DType::Q5_0: return decode_blocks<DType::Q5_0>(from, to, columns);
        case DType::Q5_1: return decode_blocks<DType::Q5_1>(from, to, columns);
        case DType::Q4_K: return decode_blocks<DType::Q4_K>(from, to, columns);
        case DType::Q5_K: return decode_blocks<DType::Q5_K>(from, to, columns);
        case DType::Q6_K: return decode_blocks<DType::Q6_K>(from, to, columns);
        case DType::MXFP4: return decode_blocks<DType::MXFP4>(from, to, columns);
        case DType::IQ4_NL: return decode_blocks<DType::IQ4_NL>(from, to, columns);
        case DType::IQ4_XS: return decode_blocks<DType::IQ4_XS>(from, to, columns);
    }
}

bool encode_row(DType type, const float* from, uint8_t* to, size_t columns) {
    const DTypeInfo& info = dtype_info(type);
    const size_t blocks = columns / info.block;
    switch (type) {
        case DType::F32:
            if (columns) memcpy(to, from, columns * sizeof(float));
            return true;
        case DType::F16:
            for (size_t i = 0; i < columns; i++) store_u16(to + 2 * i, f32_to_f16(from[i]));
            return true;
        case DType::BF16:
            for (size_t i = 0; i < columns; i++) store_u16(to + 2 * i, f32_to_bf16(from[i]));
            return true;
        case DType::Q8_0:
            for (size_t b = 0; b < blocks; b++)
                if (!encode_q8_0(from + b * info.block, to + b * info.bytes)) return false;
            return true;
        case DType::Q4_0:
            for (size_t b = 0; b < blocks; b++)
                if (!encode_q4_0(from + b * info.block, to + b * info.bytes)) return false;
            return true;
        default:
            return false;
    }
}

}  // namespace tmoe
