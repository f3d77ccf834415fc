#include "quant/repack.h"

#include <cstring>

namespace tmoe {

namespace {

constexpr size_t kRows = 16;

void pack_plain(const uint8_t* from, size_t rows, size_t columns, size_t bytes, uint8_t* to) {
    for (size_t row = 0; row < kRows; row++) {
        for (size_t column = 0; column < columns; column++) {
            uint8_t* at = to + (column * kRows + row) * bytes;
            if (row < rows) {
                memcpy(at, from + (row * columns + column) * bytes, bytes);
            } else {
                memset(at, 0, bytes);
            }
        }
    }
}

void pack_q8_0(const uint8_t* from, size_t rows, size_t blocks, uint8_t* to) {
    for (size_t block = 0; block < blocks; block++, to += 544) {
        for (size_t row = 0; row < kRows; row++) {
            const uint8_t* source = from + (row * blocks + block) * 34;
            for (size_t g = 0; g < 8; g++) {
                uint32_t four = 0;
                if (row < rows) memcpy(&four, source + 2 + 4 * g, 4);
                four ^= 0x80808080u;
                memcpy(to + 64 * g + 4 * row, &four, 4);
            }
            uint16_t scale = 0;
            if (row < rows) memcpy(&scale, source, 2);
            memcpy(to + 512 + 2 * row, &scale, 2);
        }
    }
}

void pack_q4_0(const uint8_t* from, size_t rows, size_t blocks, uint8_t* to) {
    for (size_t block = 0; block < blocks; block++, to += 288) {
        for (size_t row = 0; row < kRows; row++) {
            const uint8_t* source = from + (row * blocks + block) * 18;
            for (size_t g = 0; g < 4; g++) {
                uint32_t four = 0;
                if (row < rows) memcpy(&four, source + 2 + 4 * g, 4);
                memcpy(to + 64 * g + 4 * row, &four, 4);
            }
            uint16_t scale = 0;
            if (row < rows) memcpy(&scale, source, 2);
            memcpy(to + 256 + 2 * row, &scale, 2);
        }
    }
}

void pack_q6_k_block(const uint8_t* source, size_t row, uint8_t* to) {
    uint8_t q[256];
    for (size_t half = 0; half < 2; half++) {
        const uint8_t* low = source + 64 * half;
        const uint8_t* high = source + 128 + 32 * half;
        for (size_t p = 0; p < 4; p++) {
            for (size_t l = 0; l < 32; l++) {
                const uint8_t nibbles = low[l + 32 * (p & 1)];
                const uint8_t four = p < 2 ? nibbles & 15 : nibbles >> 4;
                q[128 * half + 32 * p + l] = static_cast<uint8_t>(four | (((high[l] >> (2 * p)) & 3) << 4));
            }
        }
    }
    for (size_t block = 0; block < 8; block++) {
        uint8_t* at = to + 416 * block;
        for (size_t g = 0; g < 8; g++) {
            for (size_t j = 0; j < 4; j++) {
                const uint8_t value = q[32 * block + 4 * g + j];
                at[64 * (g & 3) + 4 * row + j] |= static_cast<uint8_t>((value & 15) << (g < 4 ? 0 : 4));
                at[256 + 64 * (g >> 2) + 4 * row + j] |= static_cast<uint8_t>((value >> 4) << (2 * (g & 3)));
            }
        }
        at[384 + row] = source[192 + 2 * block];
        at[400 + row] = source[192 + 2 * block + 1];
    }
    memcpy(to + 3328 + 2 * row, source + 208, 2);
}

void pack_q6_k(const uint8_t* from, size_t rows, size_t blocks, uint8_t* to) {
    memset(to, 0, blocks * 3360);
    for (size_t row = 0; row < rows; row++) {
        for (size_t block = 0; block < blocks; block++) pack_q6_k_block(from + (row * blocks + block) * 210, row, to + block * 3360);
    }
}

}  // namespace

size_t packed_group_bytes(DType type, size_t columns) { return kRows * row_bytes(type, columns); }

size_t packed_bytes(DType type, size_t rows, size_t columns) {
    return (rows + kRows - 1) / kRows * packed_group_bytes(type, columns);
}

void pack_group(DType type, const uint8_t* from, size_t rows, size_t columns, uint8_t* to) {
    const DTypeInfo& info = dtype_info(type);
    switch (type) {
        case DType::Q8_0: return pack_q8_0(from, rows, columns / info.block, to);
        case DType::Q4_0: return pack_q4_0(from, rows, columns / info.block, to);
        case DType::Q6_K: return pack_q6_k(from, rows, columns / info.block, to);
        default: return pack_plain(from, rows, columns, info.bytes, to);
    }
}

}  // namespace tmoe
