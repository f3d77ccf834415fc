// embed and dequantise: a thread decodes one weight of a row in the file's layout (quant/blocks.h); encode: a thread has one block.
#include "cuda/dense.h"
#include "cuda/math.h"
#include "cuda/packed_blocks.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kThreads = 128;

__device__ inline float iq4_value(int code) { return static_cast<float>(static_cast<int8_t>(iq4_values(static_cast<uint32_t>(code)))); }

__device__ inline float decode(DType type, const uint8_t* row, size_t i) {
    switch (type) {
        case DType::F16: return f16_to_f32(load_u16(row + 2 * i));
        case DType::BF16: return bf16_to_f32(load_u16(row + 2 * i));
        case DType::Q8_0: {
            const uint8_t* block = row + i / 32 * 34;
            return f16_to_f32(load_u16(block)) * static_cast<float>(static_cast<int8_t>(block[2 + i % 32]));
        }
        case DType::Q4_0: {
            const uint8_t* block = row + i / 32 * 18;
            const int both = block[2 + i % 16], q = i % 32 < 16 ? both & 15 : both >> 4;
            return f16_to_f32(load_u16(block)) * static_cast<float>(q - 8);
        }
        case DType::Q4_1:
        case DType::Q5_1: {
            const bool five = type == DType::Q5_1;
            const uint8_t* block = row + i / 32 * (five ? 24 : 20);
            const int code = five ? five_bits_at(block + 4, i % 32) : nibble_at(block + 4, i % 32);
            return f16_to_f32(load_u16(block)) * static_cast<float>(code) + f16_to_f32(load_u16(block + 2));   // the product is exact
        }
        case DType::Q5_0: {
            const uint8_t* block = row + i / 32 * 22;
            return f16_to_f32(load_u16(block)) * static_cast<float>(five_bits_at(block + 2, i % 32) - 16);
        }
        case DType::IQ4_NL: {
            const uint8_t* block = row + i / 32 * 18;
            return f16_to_f32(load_u16(block)) * iq4_value(nibble_at(block + 2, i % 32));
        }
        case DType::IQ4_XS: {
            const uint8_t* block = row + i / 256 * 136;
            const size_t part = i % 256 / 32;
            return f16_to_f32(load_u16(block)) * static_cast<float>(iq4_xs_scale(block, part)) * iq4_value(nibble_at(block + 8 + part * 16, i % 32));
        }
        case DType::Q6_K: {
            const uint8_t* block = row + i / 256 * 210;
            const size_t half = i % 256 / 128, part = i % 128 / 32, l = i % 32;
            const int byte = block[64 * half + l + 32 * (part & 1)], high = block[128 + 32 * half + l];
            const int q = (part < 2 ? byte & 15 : byte >> 4) | (((high >> (2 * part)) & 3) << 4);
            const float scale = f16_to_f32(load_u16(block + 208)) * static_cast<float>(static_cast<int8_t>(block[192 + 8 * half + 2 * part + l / 16]));
            return scale * static_cast<float>(q - 32);
        }
        case DType::Q4_K: {
            const uint8_t* block = row + i / 256 * 144;
            const size_t part = i % 256 / 32;
            const SubScale sub = q4_k_scale(block + 4, part);
            const int nibble = (block[16 + 32 * (part / 2) + i % 32] >> (part % 2 * 4)) & 15;
            // Both products are exact.
            return f16_to_f32(load_u16(block)) * sub.scale * static_cast<float>(nibble) - f16_to_f32(load_u16(block + 2)) * sub.minimum;
        }
        case DType::Q5_K: {
            const uint8_t* block = row + i / 256 * 176;
            const SubScale sub = q4_k_scale(block + 4, i % 256 / 32);
            return f16_to_f32(load_u16(block)) * sub.scale * static_cast<float>(q5_k_code(block, i % 256)) - f16_to_f32(load_u16(block + 2)) * sub.minimum;
        }
        case DType::MXFP4: {
            const uint8_t* block = row + i / 32 * 17;
            const int both = block[1 + i % 16], code = i % 32 < 16 ? both & 15 : both >> 4, exponent = (code >> 1) & 3;
            const int magnitude = exponent == 0 ? code & 1 : (2 | (code & 1)) << (exponent - 1);
            return e8m0_half(block[0]) * static_cast<float>(code & 8 ? -magnitude : magnitude);
        }
        case DType::F32: break;
    }
    float value;
    memcpy(&value, row + 4 * i, sizeof value);
    return value;
}

__global__ void embed_kernel(RawMatrix table, size_t row_size, const int32_t* ids, float* out) {
    const size_t row = ids ? static_cast<size_t>(ids[blockIdx.x]) : blockIdx.x;
    for (size_t i = threadIdx.x; i < table.columns; i += kThreads) out[blockIdx.x * table.columns + i] = decode(table.type, table.raw + row * row_size, i);
}

/** A block of 32; `largest` is what the scale is made of. The same steps as encode_q8_0 and encode_q4_0. */
__device__ inline bool encode_block(DType type, const float* x, uint8_t* to) {
    float largest = 0;
    for (int i = 0; i < 32; i++) {
        if (!finite(x[i])) return false;
        if (type == DType::Q8_0) {
            largest = fmaxf(largest, fabsf(x[i]));
        } else if (fabsf(x[i]) > fabsf(largest)) {
            largest = x[i];
        }
    }
    const float d = largest / (type == DType::Q8_0 ? 127.0f : -8.0f);
    float inverse = d != 0 ? 1.0f / d : 0.0f;
    if (!finite(inverse)) inverse = 0;  // a scale that small is 0 in f16
    const uint16_t half = f32_to_f16(d);
    store_u16(to, half);
    if (type == DType::Q8_0) {
        for (int i = 0; i < 32; i++) to[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(roundf(x[i] * inverse)));
    } else {
        for (int i = 0; i < 16; i++) {
            const int low = static_cast<int>(x[i] * inverse + 8.5f), high = static_cast<int>(x[i + 16] * inverse + 8.5f);
            to[2 + i] = static_cast<uint8_t>((low < 15 ? low : 15) | ((high < 15 ? high : 15) << 4));
        }
    }
    return finite(f16_to_f32(half));
}

__global__ void encode_kernel(EncodeCall c, size_t block, size_t bytes) {
    const size_t index = size_t{blockIdx.x} * kThreads + threadIdx.x, all = c.columns / block;
    if (index >= c.rows * all) return;
    const float* x = c.x + index * block;
    uint8_t* to = c.out + index * bytes;
    bool sound = true;
    switch (c.type) {
        case DType::F16: store_u16(to, f32_to_f16(*x)); break;
        case DType::BF16: store_u16(to, f32_to_bf16(*x)); break;
        case DType::F32: memcpy(to, x, sizeof(float)); break;
        default: sound = encode_block(c.type, x, to);
    }
    if (!sound && c.marks.tokens) atomicMin(c.marks.tokens + index / all, c.marks.mark);
}

}  // namespace

Status embed(Stream& stream, const EmbedCall& c) {
    return launch("embed", stream, {c.count}, kThreads, 0, embed_kernel, c.table, row_bytes(c.table.type, c.table.columns), c.ids, c.out);
}

Status dequantise(Stream& stream, const RawMatrix& table, float* out) {
    return launch("dequantise", stream, {table.rows}, kThreads, 0, embed_kernel, table, row_bytes(table.type, table.columns), nullptr, out);
}

Status encode(Stream& stream, const EncodeCall& c) {
    const DTypeInfo& info = dtype_info(c.type);
    return launch("encode", stream, {(c.rows * (c.columns / info.block) + kThreads - 1) / kThreads}, kThreads, 0, encode_kernel, c, info.block, info.bytes);
}

}  // namespace cuda
}  // namespace tmoe
