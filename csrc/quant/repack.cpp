#include "quant/repack.h"

#include <cstring>

#include "core/prefetch.h"
#include "quant/blocks.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tmoe {

namespace {

constexpr size_t kRows = 16;

/**
 * Sixteen bytes of each of 16 rows (`stride` apart) as four vectors of 64: vector g has bytes 4g … 4g + 3 of every row, each four xored with
 * `flip`. Four rows are a 4 × 4 of words to transpose.
 */
inline void pack_words(const uint8_t* from, size_t stride, uint32_t flip, uint8_t* to) {
    for (size_t row = 0; row < kRows; row += 4, from += 4 * stride, to += 16) {
#if defined(__x86_64__)
        const __m128i bits = _mm_set1_epi32(static_cast<int>(flip));
        const auto load = [&](size_t r) { return _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + r * stride)), bits); };
        const auto store = [&](size_t g, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 64 * g), v); };
        const __m128i a = load(0), b = load(1), c = load(2), d = load(3);
        const __m128i low_ab = _mm_unpacklo_epi32(a, b), low_cd = _mm_unpacklo_epi32(c, d);
        const __m128i high_ab = _mm_unpackhi_epi32(a, b), high_cd = _mm_unpackhi_epi32(c, d);
        store(0, _mm_unpacklo_epi64(low_ab, low_cd));
        store(1, _mm_unpackhi_epi64(low_ab, low_cd));
        store(2, _mm_unpacklo_epi64(high_ab, high_cd));
        store(3, _mm_unpackhi_epi64(high_ab, high_cd));
#elif defined(__aarch64__)
        const uint32x4_t bits = vdupq_n_u32(flip);
        const auto load = [&](size_t r) { return veorq_u32(vreinterpretq_u32_u8(vld1q_u8(from + r * stride)), bits); };
        const uint32x4x4_t rows = {{load(0), load(1), load(2), load(3)}};
        uint32_t words[16];
        vst4q_u32(words, rows);
        for (size_t g = 0; g < 4; g++) memcpy(to + 64 * g, words + 4 * g, 16);
#else
        for (size_t r = 0; r < 4; r++) {
            for (size_t g = 0; g < 4; g++) {
                uint32_t four;
                memcpy(&four, from + r * stride + 4 * g, 4);
                four ^= flip;
                memcpy(to + 64 * g + 4 * r, &four, 4);
            }
        }
#endif
    }
}

/** Eight numbers of two bytes of each of 16 rows as columns of 16: pairs first, then apart. */
inline void pack_halves(const uint8_t* from, size_t stride, uint8_t* to) {
    uint32_t pairs[64];
    pack_words(from, stride, 0, reinterpret_cast<uint8_t*>(pairs));
    for (size_t g = 0; g < 4; g++, to += 64) {
        uint16_t columns[2][kRows];
        for (size_t row = 0; row < kRows; row++) {
            columns[0][row] = static_cast<uint16_t>(pairs[kRows * g + row]);
            columns[1][row] = static_cast<uint16_t>(pairs[kRows * g + row] >> 16);
        }
        memcpy(to, columns, sizeof columns);
    }
}

void pack_plain(const uint8_t* from, size_t rows, size_t columns, size_t bytes, uint8_t* to) {
    size_t column = 0;
    if (rows == kRows && bytes == 4) {
        for (; column + 4 <= columns; column += 4) pack_words(from + column * 4, columns * 4, 0, to + column * kRows * 4);
    } else if (rows == kRows && bytes == 2) {
        for (; column + 8 <= columns; column += 8) pack_halves(from + column * 2, columns * 2, to + column * kRows * 2);
    }
    for (; column < columns; column++) {
        for (size_t row = 0; row < kRows; row++) {
            uint8_t* at = to + (column * kRows + row) * bytes;
            if (row < rows) {
                memcpy(at, from + (row * columns + column) * bytes, bytes);
            } else {
                memset(at, 0, bytes);
            }
        }
    }
}

/** A block of 16 rows, the last of them zero where there are fewer: `first` and `stride` as pack_words takes them. */
template <size_t bytes> class BlockRows {
  public:
    BlockRows(const uint8_t* from, size_t rows, size_t blocks) : from_(from), rows_(rows), blocks_(blocks) {
        if (rows < kRows) memset(filled_, 0, sizeof filled_);
    }
    size_t stride() const { return rows_ == kRows ? blocks_ * bytes : bytes; }
    const uint8_t* first(size_t block) {
        if (rows_ == kRows) return from_ + block * bytes;
        for (size_t row = 0; row < rows_; row++) memcpy(filled_ + row * bytes, from_ + (row * blocks_ + block) * bytes, bytes);
        return filled_;
    }

  private:
    const uint8_t* from_;
    size_t rows_, blocks_;
    uint8_t filled_[kRows * bytes];
};

/** Two bytes of each row. */
inline void pack_half(const uint8_t* from, size_t stride, uint8_t* to) {
    for (size_t row = 0; row < kRows; row++) memcpy(to + 2 * row, from + row * stride, 2);
}

void pack_q8_0(const uint8_t* from, size_t rows, size_t blocks, uint8_t* to) {
    BlockRows<34> source(from, rows, blocks);
    const size_t stride = source.stride();
    for (size_t block = 0; block < blocks; block++, to += 544) {
        const uint8_t* first = source.first(block);
        pack_words(first + 2, stride, 0x80808080u, to);
        pack_words(first + 18, stride, 0x80808080u, to + 256);
        pack_half(first, stride, to + 512);
    }
}

void pack_mxfp4(const uint8_t* from, size_t rows, size_t blocks, uint8_t* to) {
    BlockRows<17> source(from, rows, blocks);
    const size_t stride = source.stride();
    for (size_t block = 0; block < blocks; block++, to += 272) {
        const uint8_t* first = source.first(block);
        pack_words(first + 1, stride, 0, to);
        for (size_t row = 0; row < kRows; row++) to[256 + row] = first[row * stride];
    }
}

/** Blocks of 32 codes of four or five bits in `bytes` of the file: f16 d, with `minimum` f16 m, with `five` a word of high bits, nibbles. */
template <size_t bytes, bool minimum, bool five> void pack_small(const uint8_t* from, size_t rows, size_t blocks, uint8_t* to) {
    constexpr size_t head = minimum ? 4 : 2, scales = five ? 320 : 256;
    BlockRows<bytes> source(from, rows, blocks);
    const size_t stride = source.stride();
    for (size_t block = 0; block < blocks; block++, to += kRows * bytes) {
        const uint8_t* first = source.first(block);
        pack_words(first + bytes - 16, stride, 0, to);
        for (size_t row = 0; row < kRows && five; row++) {
            uint32_t bits, packed = 0;
            memcpy(&bits, first + row * stride + head, 4);
            for (size_t c = 0; c < 4; c++) {
                uint32_t column = (bits >> c) & 0x11111111u;  // bit 4g is that of column 4g + c
                column = (column | (column >> 3)) & 0x03030303u;
                column = (column | (column >> 6)) & 0x000f000fu;
                packed |= ((column | (column >> 12)) & 0xffu) << (8 * c);
            }
            memcpy(to + 256 + 4 * row, &packed, 4);
        }
        pack_half(first, stride, to + scales);
        if (minimum) pack_half(first + 2, stride, to + scales + 32);
    }
}

/** The bits of 8 × 8 transposed: bit b of byte g becomes bit g of byte b. */
inline uint64_t transpose_bits(uint64_t x) {
    const auto swap = [&](unsigned distance, uint64_t mask) {
        const uint64_t differ = (x ^ (x >> distance)) & mask;
        x ^= differ ^ (differ << distance);
    };
    swap(7, 0x00aa00aa00aa00aaull);
    swap(14, 0x0000cccc0000ccccull);
    swap(28, 0x00000000f0f0f0f0ull);
    return x;
}

/** Q4_K, and with `five` Q5_K. */
template <bool five> void pack_k(const uint8_t* from, size_t rows, size_t blocks, uint8_t* to) {
    constexpr size_t bytes = five ? 176 : 144, nibbles = bytes - 128, part = five ? 320 : 256;
    BlockRows<bytes> source(from, rows, blocks);
    const size_t stride = source.stride();
    for (size_t block = 0; block < blocks; block++, to += kRows * bytes) {
        const uint8_t* first = source.first(block);
        for (size_t pair = 0; pair < 4; pair++) {  // the file has two blocks of 32 in the low and high nibbles of 32 bytes
            uint32_t left[64], right[64], even[64], odd[64];
            pack_words(first + nibbles + 32 * pair, stride, 0, reinterpret_cast<uint8_t*>(left));
            pack_words(first + nibbles + 16 + 32 * pair, stride, 0, reinterpret_cast<uint8_t*>(right));
            for (size_t i = 0; i < 64; i++) {
                even[i] = (left[i] & 0x0f0f0f0fu) | ((right[i] & 0x0f0f0f0fu) << 4);
                odd[i] = ((left[i] >> 4) & 0x0f0f0f0fu) | (right[i] & 0xf0f0f0f0u);
            }
            memcpy(to + part * 2 * pair, even, sizeof even);
            memcpy(to + part * (2 * pair + 1), odd, sizeof odd);
        }
        for (size_t at = 0; at < kRows * 4 && five; at++) {  // of one row the columns 4g + c
            const uint8_t* high = first + at / 4 * stride + 16 + at % 4;
            uint64_t columns = 0;
            for (size_t g = 0; g < 8; g++) columns |= uint64_t{high[4 * g]} << (8 * g);
            columns = transpose_bits(columns);
            for (size_t b = 0; b < 8; b++) to[part * b + 256 + at] = static_cast<uint8_t>(columns >> (8 * b));
        }
        uint8_t* tail = to + part * 8;
        uint32_t head[64];  // d and dmin as one word a row, then the words of scales
        pack_words(first, stride, 0, reinterpret_cast<uint8_t*>(head));
        pack_half(first, stride, tail);
        pack_half(first + 2, stride, tail + 32);
        memcpy(tail + 64, head + 16, 192);
    }
}

void pack_iq4_xs(const uint8_t* from, size_t rows, size_t blocks, uint8_t* to) {
    BlockRows<136> source(from, rows, blocks);
    const size_t stride = source.stride();
    for (size_t block = 0; block < blocks; block++, to += 2176) {
        const uint8_t* first = source.first(block);
        for (size_t part = 0; part < 8; part++) pack_words(first + 8 + 16 * part, stride, 0, to + 256 * part);
        pack_half(first, stride, to + 2048);
        pack_half(first + 2, stride, to + 2080);
        for (size_t row = 0; row < kRows; row++) memcpy(to + 2112 + 4 * row, first + row * stride + 4, 4);
    }
}

void pack_q6_k_block(const uint8_t* source, size_t row, uint8_t* to) {
    for (size_t block = 0; block < 8; block++) {
        uint8_t* at = to + 416 * block;
        uint8_t q[32];
        for (size_t i = 0; i < 32; i++) q[i] = static_cast<uint8_t>(q6_k_code(source, block, i));
        uint32_t words[8];  // of four values of 6 bits
        memcpy(words, q, sizeof words);
        for (size_t g = 0; g < 4; g++) {
            const uint32_t low = (words[g] & 0x0f0f0f0fu) | ((words[4 + g] & 0x0f0f0f0fu) << 4);
            memcpy(at + 64 * g + 4 * row, &low, 4);
        }
        for (size_t h = 0; h < 2; h++) {
            uint32_t high = 0;
            for (size_t f = 0; f < 4; f++) high |= ((words[4 * h + f] >> 4) & 0x03030303u) << (2 * f);
            memcpy(at + 256 + 64 * h + 4 * row, &high, 4);
        }
        at[384 + row] = source[192 + 2 * block];
        at[400 + row] = source[192 + 2 * block + 1];
    }
    memcpy(to + 3328 + 2 * row, source + 208, 2);
}

void pack_q6_k(const uint8_t* from, size_t rows, size_t blocks, uint8_t* to) {
    if (rows < kRows) memset(to, 0, blocks * 3360);
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
        case DType::Q4_0:
        case DType::IQ4_NL: return pack_small<18, false, false>(from, rows, columns / info.block, to);
        case DType::Q4_1: return pack_small<20, true, false>(from, rows, columns / info.block, to);
        case DType::Q5_0: return pack_small<22, false, true>(from, rows, columns / info.block, to);
        case DType::Q5_1: return pack_small<24, true, true>(from, rows, columns / info.block, to);
        case DType::Q4_K: return pack_k<false>(from, rows, columns / info.block, to);
        case DType::Q5_K: return pack_k<true>(from, rows, columns / info.block, to);
        case DType::IQ4_XS: return pack_iq4_xs(from, rows, columns / info.block, to);
        case DType::MXFP4: return pack_mxfp4(from, rows, columns / info.block, to);
        case DType::Q6_K: return pack_q6_k(from, rows, columns / info.block, to);
        default: return pack_plain(from, rows, columns, info.bytes, to);
    }
}

void unpack_row(DType type, const uint8_t* packed, size_t row, size_t columns, uint8_t* to) {
    const DTypeInfo& info = dtype_info(type);
    const uint8_t* from = packed + row / kRows * packed_group_bytes(type, columns);
    const size_t lane = row % kRows, block_bytes = kRows * info.bytes;
    if (info.block == 1) {
        for (size_t column = 0; column < columns; column++) memcpy(to + column * info.bytes, from + (column * kRows + lane) * info.bytes, info.bytes);
        return;
    }
    // Q8_0 and Q4_0: words of four bytes, 16 rows side by side, and the scales behind them.
    const size_t words = (info.bytes - 2) / 4;
    const uint32_t flip = type == DType::Q8_0 ? 0x80808080u : 0;
    for (size_t block = 0; block < columns / info.block; block++, from += block_bytes, to += info.bytes) {
        memcpy(to, from + 64 * words + 2 * lane, 2);
        for (size_t word = 0; word < words; word++) {
            uint32_t four;
            memcpy(&four, from + 64 * word + 4 * lane, 4);
            four ^= flip;
            memcpy(to + 2 + 4 * word, &four, 4);
        }
    }
}

void pack_rows(DType type, const uint8_t* from, size_t rows, size_t columns, uint8_t* to) {
    const size_t bytes = kRows * row_bytes(type, columns), packed = packed_group_bytes(type, columns);
    for (size_t first = 0; first < rows; first += kRows, from += bytes, to += packed) {
        const size_t left = rows - first;
#if defined(__GNUC__)
        // Sixteen rows side by side are no stream that the CPU would see coming.
        const size_t ahead = left > 2 * kRows ? bytes : left > kRows ? (left - kRows) * row_bytes(type, columns) : 0;
        for (size_t at = 0; at < ahead; at += 64) prefetch_line(from + bytes + at);
#endif
        pack_group(type, from, left < kRows ? left : kRows, columns, to);
    }
}

}  // namespace tmoe
