// The arithmetic that the contract does not allow, to know what the contract costs: a Q4_0 matrix whose lanes are pieces of one dot product
// (K split over the vector), with one float sum per lane and their total at the end of a row. Hand-written for AVX-512 with VNNI.
#pragma once
#include <cstring>
#include <vector>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

#include "cpu/expert_matmul.h"

namespace tmoe {

/** Rows of activations with two blocks of 32 side by side: word i of a vector is of block i % 2, so that scales need no permutation. */
struct KSplitActivations {
    size_t pairs;
    std::vector<int8_t> q;         ///< [tokens][pairs][64]
    std::vector<int32_t> offset;   ///< [tokens][pairs][16]: -8 times the sum of each four
    std::vector<float> scale;      ///< [tokens][pairs][2]

    KSplitActivations(const ActivationView& a, size_t tokens)
        : pairs(a.columns / 64), q(tokens * pairs * 64), offset(tokens * pairs * 16), scale(tokens * pairs * 2) {
        for (size_t i = 0; i < tokens * pairs; i++) {
            for (size_t word = 0; word < 16; word++) {
                int32_t sum = 0;
                for (size_t c = 0; c < 4; c++) {
                    const int8_t value = a.blocks[2 * i + word % 2].q[word / 2 * 4 + c];
                    q[i * 64 + word * 4 + c] = value;
                    sum += value;
                }
                offset[i * 16 + word] = -8 * sum;
            }
            for (size_t block = 0; block < 2; block++) scale[i * 2 + block] = a.blocks[i * 2 + block].scale;
        }
    }
};

#if defined(__AVX512VNNI__)

class KSplit {
  public:
    static constexpr size_t kBytes = 36;   ///< of 64 columns: two f16 scales, and 32 bytes whose low and high nibbles are the words of a vector's halves

    /** From rows in the file's layout: 18 bytes a block, of whose nibbles byte i has those of columns i and 16 + i. */
    KSplit(DType type, const uint8_t* raw, size_t rows, size_t columns) : rows_(rows), pairs_(columns / 64) {
        if (type != DType::Q4_0 || columns % 64 || rows % (kRows * kItemTiles)) return;
        data_.resize(rows * pairs_ * kBytes);
        for (size_t i = 0; i < rows * pairs_; i++) {
            const uint8_t* blocks = raw + i * 36;
            uint8_t* to = data_.data() + i * kBytes;
            for (size_t block = 0; block < 2; block++) memcpy(to + 2 * block, blocks + 18 * block, 2);
            for (size_t byte = 0; byte < 32; byte++) to[4 + byte] = static_cast<uint8_t>(code(blocks, byte) | code(blocks, 32 + byte) << 4);
        }
    }

    bool there() const { return !data_.empty(); }

    void matmul(const Context& context, const KSplitActivations& a, size_t tokens, float* out, size_t stride) const {
        context.pool.for_each(rows_ / kRows / kItemTiles, context.cancel, [&](size_t item, size_t) {
            for (size_t token = 0; token < tokens; token += kTokens) {
                for (size_t tile = 0; tile < kItemTiles; tile++) {
                    const size_t row = (item * kItemTiles + tile) * kRows;
                    if (tokens - token >= kTokens) run<kTokens>(a, row, token, out, stride);
                    else for (size_t t = token; t < tokens; t++) run<1>(a, row, t, out, stride);
                }
            }
        });
    }

  private:
    static constexpr size_t kRows = 4, kTokens = 6, kItemTiles = 32;

    /** The code at a place of the vector that a pair of blocks becomes. */
    static uint8_t code(const uint8_t* blocks, size_t place) {
        const size_t word = place / 4, column = word / 2 * 4 + place % 4;
        const uint8_t byte = blocks[word % 2 * 18 + 2 + column % 16];
        return column < 16 ? byte & 15 : byte >> 4;
    }

    template <size_t T> void run(const KSplitActivations& a, size_t row, size_t token, float* out, size_t stride) const {
        __m512 sums[kRows][T];
#pragma GCC unroll 4
        for (size_t r = 0; r < kRows; r++) {
#pragma GCC unroll 6
            for (size_t t = 0; t < T; t++) sums[r][t] = _mm512_setzero_ps();
        }
        for (size_t pair = 0; pair < pairs_; pair++) {
            __m512i w[kRows];
            __m512 scale[kRows];
#pragma GCC unroll 4
            for (size_t r = 0; r < kRows; r++) {
                const uint8_t* at = data_.data() + ((row + r) * pairs_ + pair) * kBytes;
                if (T == 1) __builtin_prefetch(at + 4608);  // as the kernels do
                const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 4)), low = _mm256_set1_epi8(15);
                w[r] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_and_si256(bytes, low)), _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low), 1);
                int32_t both;
                memcpy(&both, at, 4);
                scale[r] = _mm512_cvtph_ps(_mm256_set1_epi32(both));
            }
#pragma GCC unroll 6
            for (size_t t = 0; t < T; t++) {
                const size_t at = (token + t) * pairs_ + pair;
                const __m512i q = _mm512_loadu_si512(a.q.data() + at * 64), start = _mm512_loadu_si512(a.offset.data() + at * 16);
                const __m512 own = _mm512_castpd_ps(_mm512_set1_pd(*reinterpret_cast<const double*>(a.scale.data() + at * 2)));
#pragma GCC unroll 4
                for (size_t r = 0; r < kRows; r++) {
                    sums[r][t] = _mm512_fmadd_ps(_mm512_mul_ps(scale[r], own), _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, w[r], q)), sums[r][t]);
                }
            }
        }
        for (size_t r = 0; r < kRows; r++)
            for (size_t t = 0; t < T; t++) out[(token + t) * stride + row + r] = _mm512_reduce_add_ps(sums[r][t]);
    }

    size_t rows_, pairs_;
    std::vector<uint8_t> data_;
};

#else

class KSplit {
  public:
    KSplit(DType, const uint8_t*, size_t, size_t) {}
    bool there() const { return false; }
    void matmul(const Context&, const KSplitActivations&, size_t, float*, size_t) const {}
};

#endif

}  // namespace tmoe
