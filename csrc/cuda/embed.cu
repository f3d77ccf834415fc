// embed and dequantise: a thread decodes one weight of a row in the file's layout (quant/blocks.h); encode: a thread has one block.
#include "cuda/dense.h"
#include "cuda/math.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kThreads = 128;

/** What is the same for all rows of a table: its type's block, and the bytes of a row. */
struct Layout {
    size_t block, bytes, row;
};
Layout layout_of(const RawMatrix& table) {
    const DTypeInfo& info = dtype_info(table.type);
    return {info.block, info.bytes, row_bytes(table.type, table.columns)};
}

__device__ inline float decode(DType type, const Layout& layout, const uint8_t* row, size_t i) {
    const uint8_t* block = row + i / layout.block * layout.bytes;
    if (type == DType::F16) return f16_to_f32(load_u16(block));
    if (type == DType::BF16) return bf16_to_f32(load_u16(block));
    if (type == DType::F32) {
        float value;
        memcpy(&value, block, sizeof value);
        return value;
    }
    const size_t part = i % layout.block / 32;
    return weight_at(type, scales_of(type, block, part), block, part, i % 32);
}

__global__ void embed_kernel(RawMatrix table, Layout layout, const int32_t* ids, float* out) {
    const size_t row = ids ? static_cast<size_t>(ids[blockIdx.x]) : blockIdx.x;
    for (size_t i = threadIdx.x; i < table.columns; i += kThreads) {
        out[blockIdx.x * table.columns + i] = decode(table.type, layout, table.raw + row * layout.row, i);
    }
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
    return launch("embed", stream, {c.count}, kThreads, 0, embed_kernel, c.table, layout_of(c.table), c.ids, c.out);
}

Status dequantise(Stream& stream, const RawMatrix& table, float* out) {
    return launch("dequantise", stream, {table.rows}, kThreads, 0, embed_kernel, table, layout_of(table), nullptr, out);
}

Status encode(Stream& stream, const EncodeCall& c) {
    const DTypeInfo& info = dtype_info(c.type);
    return launch("encode", stream, {(c.rows * (c.columns / info.block) + kThreads - 1) / kThreads}, kThreads, 0, encode_kernel, c, info.block, info.bytes);
}

}  // namespace cuda
}  // namespace tmoe
