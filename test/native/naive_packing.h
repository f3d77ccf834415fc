// The kernels' layout of a group of 16 rows, weight by weight as csrc/quant/repack.h has it in words: what packing is compared with.
#pragma once
#include <cstring>
#include <vector>

#include "quant/blocks.h"
#include "quant/repack.h"

namespace tmoe {

/** Weight `c` of a Q6_K block, 0 to 63. */
inline unsigned q6_k_weight(const uint8_t* block, size_t c) {
    const size_t half = c / 128, part = c % 128 / 32, l = c % 32;
    const uint8_t nibbles = block[64 * half + 32 * (part % 2) + l], high = block[128 + 32 * half + l];
    return (part < 2 ? nibbles & 15u : nibbles >> 4) | ((high >> (2 * part)) & 3u) << 4;
}

/** Nibble `c` of a Q4_K or Q5_K block: 64 weights in the low and then the high nibbles of 32 bytes. */
inline unsigned k_nibble(const uint8_t* codes, size_t c) { return c % 64 < 32 ? codes[c / 64 * 32 + c % 32] & 15u : codes[c / 64 * 32 + c % 32] >> 4; }

/** The packed group of `rows` rows. */
inline std::vector<uint8_t> naive_group(DType type, const uint8_t* from, size_t rows, size_t columns) {
    std::vector<uint8_t> out(packed_group_bytes(type, columns), 0);
    const DTypeInfo& info = dtype_info(type);
    for (size_t row = 0; row < 16; row++) {
        const uint8_t* source = from + row * row_bytes(type, columns);
        for (size_t c = 0; c < columns; c++) {
            const size_t block = c / info.block, at = c % info.block, group = at % 32 / 4, byte = 4 * row + at % 4;
            const uint8_t* file = source + block * info.bytes;
            uint8_t* to = out.data() + 16 * block * info.bytes;
            if (type == DType::Q8_0) {
                to[64 * group + byte] = static_cast<uint8_t>(row < rows ? file[2 + at] + 128 : 128);
            }
            if (row >= rows) continue;
            const bool five = type == DType::Q5_0 || type == DType::Q5_1 || type == DType::Q5_K;
            if (type == DType::Q8_0) {
                memcpy(to + 512 + 2 * row, file, 2);
            } else if (info.block == 32) {
                const uint8_t* codes = file + info.bytes - 16;
                const unsigned nibble = at < 16 ? codes[at] & 15u : codes[at - 16] >> 4;
                to[64 * (group % 4) + byte] |= static_cast<uint8_t>(nibble << (at < 16 ? 0 : 4));
                if (five) to[256 + byte] |= static_cast<uint8_t>(((codes[at / 8 - 4] >> (at % 8)) & 1u) << group);
                uint8_t* scales = to + (five ? 320 : 256);
                if (type == DType::MXFP4) {
                    scales[row] = file[0];
                } else {
                    memcpy(scales + 2 * row, file, 2);
                    if (type == DType::Q4_1 || type == DType::Q5_1) memcpy(scales + 32 + 2 * row, file + 2, 2);
                }
            } else if (type == DType::Q4_K || type == DType::Q5_K) {
                uint8_t* part = to + (five ? 320 : 256) * (at / 32);
                uint8_t* tail = to + (five ? 2560 : 2048);
                const uint8_t* high = file + 16;
                part[64 * (group % 4) + byte] |= static_cast<uint8_t>(k_nibble(file + (five ? 48 : 16), at) << (group < 4 ? 0 : 4));
                if (five) part[256 + byte] |= static_cast<uint8_t>(((high[at % 32] >> (at / 32)) & 1u) << group);
                memcpy(tail + 2 * row, file, 2);
                memcpy(tail + 32 + 2 * row, file + 2, 2);
                for (size_t word = 0; word < 3; word++) memcpy(tail + 64 + 64 * word + 4 * row, file + 4 + 4 * word, 4);
            } else if (type == DType::IQ4_XS) {
                const uint8_t both = file[8 + at / 32 * 16 + at % 16];
                to[256 * (at / 32) + 64 * (group % 4) + byte] |= static_cast<uint8_t>((group < 4 ? both & 15u : both >> 4) << (group < 4 ? 0 : 4));
                memcpy(to + 2048 + 2 * row, file, 2);
                memcpy(to + 2080 + 2 * row, file + 2, 2);
                memcpy(to + 2112 + 4 * row, file + 4, 4);
            } else if (type == DType::Q6_K) {
                uint8_t* part = to + 416 * (at / 32);
                const unsigned weight = q6_k_weight(file, at);
                part[64 * (group % 4) + byte] |= static_cast<uint8_t>((weight & 15u) << (group < 4 ? 0 : 4));
                part[256 + 64 * (group / 4) + byte] |= static_cast<uint8_t>((weight >> 4) << (2 * (group % 4)));
                part[384 + 16 * (at % 32 / 16) + row] = file[192 + at / 16];
                memcpy(to + 3328 + 2 * row, file + 208, 2);
            } else {
                memcpy(to + row * info.bytes, file, info.bytes);
            }
        }
    }
    return out;
}

}  // namespace tmoe
