// Weight types: the ids of the GGUF format, with the shape and size of one block.
// Source: the GGUF specification (ggml's docs/gguf.md) and the block layouts described in quant/blocks.h.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tmoe {

enum class DType : uint32_t {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ4_NL = 20,
    IQ4_XS = 23,
    BF16 = 30,
    MXFP4 = 39,
};

struct DTypeInfo {
    DType type;
    const char* name;
    uint32_t block;   ///< weights in one block, along a row
    uint32_t bytes;   ///< bytes of one block in the file
};

inline constexpr DTypeInfo kDTypes[] = {
    {DType::F32, "F32", 1, 4},       {DType::F16, "F16", 1, 2},       {DType::BF16, "BF16", 1, 2},       {DType::Q8_0, "Q8_0", 32, 34},
    {DType::Q4_0, "Q4_0", 32, 18},   {DType::Q4_1, "Q4_1", 32, 20},   {DType::Q5_0, "Q5_0", 32, 22},     {DType::Q5_1, "Q5_1", 32, 24},
    {DType::Q4_K, "Q4_K", 256, 144}, {DType::Q5_K, "Q5_K", 256, 176}, {DType::Q6_K, "Q6_K", 256, 210},   {DType::MXFP4, "MXFP4", 32, 17},
    {DType::IQ4_NL, "IQ4_NL", 32, 18}, {DType::IQ4_XS, "IQ4_XS", 256, 136},
};

/** The entry of a type id, or null for a type that is not supported. */
inline const DTypeInfo* dtype_info(uint32_t id) {
    for (const DTypeInfo& info : kDTypes)
        if (static_cast<uint32_t>(info.type) == id) return &info;
    return nullptr;
}
inline const DTypeInfo& dtype_info(DType type) { return *dtype_info(static_cast<uint32_t>(type)); }

/** True where activations are quantised to int8 before the product (DESIGN: arithmetic contract). */
inline bool is_quantised(DType type) { return dtype_info(type).block > 1; }

/** Bytes of one row of `columns` weights in the file's layout; columns is a multiple of the block. */
inline size_t row_bytes(DType type, size_t columns) {
    const DTypeInfo& info = dtype_info(type);
    return columns / info.block * info.bytes;
}

}  // namespace tmoe
