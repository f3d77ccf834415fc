#include "quant/blocks.h"

#include <cmath>

namespace tmoe {

namespace {

constexpr uint32_t kInfinity = 0x7f800000u;

bool finite(float value) { return (float_bits(value) & kInfinity) != kInfinity; }

void decode_q8_0(const uint8_t* from, float* to) {
    const float d = f16_to_f32(load_u16(from));
    for (int i = 0; i < 32; i++) to[i] = d * static_cast<float>(static_cast<int8_t>(from[2 + i]));
}

void decode_q4_0(const uint8_t* from, float* to) {
    const float d = f16_to_f32(load_u16(from));
    for (int i = 0; i < 16; i++) {
        to[i] = d * static_cast<float>((from[2 + i] & 15) - 8);
        to[i + 16] = d * static_cast<float>((from[2 + i] >> 4) - 8);
    }
}

/** Q4_1, and with `five` Q5_1: the code times d, exact (16 bits), and the minimum. */
void decode_with_minimum(const uint8_t* from, float* to, bool five) {
    const float d = f16_to_f32(load_u16(from)), m = f16_to_f32(load_u16(from + 2));
    for (size_t i = 0; i < 32; i++) to[i] = d * static_cast<float>(five ? five_bits_at(from + 4, i) : nibble_at(from + 4, i)) + m;
}

void decode_q5_0(const uint8_t* from, float* to) {
    const float d = f16_to_f32(load_u16(from));
    for (size_t i = 0; i < 32; i++) to[i] = d * static_cast<float>(five_bits_at(from + 2, i) - 16);
}

void decode_q4_k(const uint8_t* from, float* to) {
    const float d = f16_to_f32(load_u16(from)), dmin = f16_to_f32(load_u16(from + 2));
    for (size_t block = 0; block < 8; block++) {
        const SubScale sub = q4_k_scale(from + 4, block);
        const float scale = d * sub.scale, minimum = dmin * sub.minimum;  // exact, as is the product with a nibble: 11 + 6 + 4 bits
        for (size_t i = 0; i < 32; i++) {
            const int nibble = (from[16 + 32 * (block / 2) + i] >> (block % 2 * 4)) & 15;
            to[32 * block + i] = scale * static_cast<float>(nibble) - minimum;
        }
    }
}

void decode_q5_k(const uint8_t* from, float* to) {
    const float d = f16_to_f32(load_u16(from)), dmin = f16_to_f32(load_u16(from + 2));
    for (size_t i = 0; i < 256; i++) {
        const SubScale sub = q4_k_scale(from + 4, i / 32);
        to[i] = d * sub.scale * static_cast<float>(q5_k_code(from, i)) - dmin * sub.minimum;  // both products are exact
    }
}

void decode_iq4_nl(const uint8_t* from, float* to) {
    const float d = f16_to_f32(load_u16(from));
    for (size_t i = 0; i < 32; i++) to[i] = d * static_cast<float>(kIQ4[nibble_at(from + 2, i)]);
}

void decode_iq4_xs(const uint8_t* from, float* to) {
    const float d = f16_to_f32(load_u16(from));
    for (size_t i = 0; i < 256; i++) {
        const float scale = d * static_cast<float>(iq4_xs_scale(from, i / 32));  // exact, as is the product with a value: 11 + 6 + 7 bits
        to[i] = scale * static_cast<float>(kIQ4[nibble_at(from + 8 + i / 32 * 16, i % 32)]);
    }
}

void decode_mxfp4(const uint8_t* from, float* to) {
    const float scale = e8m0_half(from[0]);
    for (int i = 0; i < 16; i++) {
        to[i] = scale * kE2M1[from[1 + i] & 15];
        to[i + 16] = scale * kE2M1[from[1 + i] >> 4];
    }
}

void decode_q6_k(const uint8_t* from, float* to) {
    const float d = f16_to_f32(load_u16(from + 208));
    for (int half = 0; half < 2; half++) {
        const uint8_t* low = from + 64 * half;
        const uint8_t* high = from + 128 + 32 * half;
        const uint8_t* scales = from + 192 + 8 * half;
        for (int part = 0; part < 4; part++) {
            for (int l = 0; l < 32; l++) {
                const int byte = low[l + 32 * (part & 1)];
                const int q = (part < 2 ? byte & 15 : byte >> 4) | (((high[l] >> (2 * part)) & 3) << 4);
                const float scale = d * static_cast<float>(static_cast<int8_t>(scales[2 * part + l / 16]));
                to[128 * half + 32 * part + l] = scale * static_cast<float>(q - 32);
            }
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
    const DTypeInfo& info = dtype_info(type);
    const size_t blocks = columns / info.block;
    switch (type) {
        case DType::F32:
            if (columns) memcpy(to, from, columns * sizeof(float));
            break;
        case DType::F16:
            for (size_t i = 0; i < columns; i++) to[i] = f16_to_f32(load_u16(from + 2 * i));
            break;
        case DType::BF16:
            for (size_t i = 0; i < columns; i++) to[i] = bf16_to_f32(load_u16(from + 2 * i));
            break;
        case DType::Q8_0:
            for (size_t b = 0; b < blocks; b++) decode_q8_0(from + b * info.bytes, to + b * info.block);
            break;
        case DType::Q4_0:
            for (size_t b = 0; b < blocks; b++) decode_q4_0(from + b * info.bytes, to + b * info.block);
            break;
        case DType::Q4_1:
        case DType::Q5_1:
            for (size_t b = 0; b < blocks; b++) decode_with_minimum(from + b * info.bytes, to + b * info.block, type == DType::Q5_1);
            break;
        case DType::Q5_0:
            for (size_t b = 0; b < blocks; b++) decode_q5_0(from + b * info.bytes, to + b * info.block);
            break;
        case DType::Q4_K:
            for (size_t b = 0; b < blocks; b++) decode_q4_k(from + b * info.bytes, to + b * info.block);
            break;
        case DType::Q5_K:
            for (size_t b = 0; b < blocks; b++) decode_q5_k(from + b * info.bytes, to + b * info.block);
            break;
        case DType::IQ4_NL:
            for (size_t b = 0; b < blocks; b++) decode_iq4_nl(from + b * info.bytes, to + b * info.block);
            break;
        case DType::IQ4_XS:
            for (size_t b = 0; b < blocks; b++) decode_iq4_xs(from + b * info.bytes, to + b * info.block);
            break;
        case DType::MXFP4:
            for (size_t b = 0; b < blocks; b++) decode_mxfp4(from + b * info.bytes, to + b * info.block);
            break;
        case DType::Q6_K:
            for (size_t b = 0; b < blocks; b++) decode_q6_k(from + b * info.bytes, to + b * info.block);
            break;
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
