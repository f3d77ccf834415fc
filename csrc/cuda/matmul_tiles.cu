// Tile form of matmul (see matmul.h): four warps, each with 16 rows of weights, over 32 tokens whose activations are in shared memory.
#include "cuda/math.h"
#include "cuda/matmul_rows.h"
#include "cuda/packed_blocks.h"
#include "quant/repack.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kWarps = 4, kThreads = kWarps * kWarp, kTokens = 32, kParts = kTokens / 8;
constexpr size_t kStepBlocks = 4;          // blocks of 32 columns in shared memory at a time
constexpr size_t kMostTokenBlocks = 64;
// Words from one token to the next: 4 more than the columns, so that the 32 lanes of a fragment meet 32 different banks.
constexpr size_t kTokenWords = kStepBlocks * 8 + 4;

struct Step {
    uint32_t q[kTokens * kTokenWords];
    float scale[kTokens * kStepBlocks];
    int32_t sum[kTokens * kStepBlocks], sum16[kTokens * kStepBlocks * 2];
};

/** Activations of blocks [first, first + count) of n tokens to shared memory; tokens that fill up the last eight are zero. */
__device__ inline void load_step(const MatmulCall& c, size_t begin, unsigned n, size_t first, size_t count, Step& step) {
    const size_t blocks = c.a.columns / 32;
    for (unsigned i = threadIdx.x; i < (n + 7) / 8 * 8 * kStepBlocks * 8; i += kThreads) {
        const unsigned token = i / (kStepBlocks * 8), word = i % (kStepBlocks * 8);
        if (word >= count * 8) continue;
        const bool there = token < n;
        const size_t index = there ? activation_row(c, begin + token) * blocks + first + word / 8 : 0;
        step.q[token * kTokenWords + word] = there ? reinterpret_cast<const uint32_t*>(c.a.q)[index * 8 + word % 8] : 0;
        if (word % 8 != 0) continue;
        const unsigned at = token * kStepBlocks + word / 8;
        step.scale[at] = there ? c.a.scale[index] : 0;
        step.sum[at] = there ? c.a.sum[index] : 0;
        step.sum16[2 * at] = there ? c.a.sum16[2 * index] : 0;
        step.sum16[2 * at + 1] = there ? c.a.sum16[2 * index + 1] : 0;
    }
}

/** One block of K for 8 tokens: dots by mma, then each lane's four chains. */
template <class B> __device__ inline void block_step(const Step& step, unsigned part, size_t b, const uint32_t (&a)[4], const typename B::Row (&rows)[2], float (&acc)[4]) {
    const unsigned lane = threadIdx.x % kWarp, q = lane % 4;
    const uint32_t* own = step.q + (part * 8 + lane / 4) * kTokenWords + b * 8;
    BlockSums sums[2];
    int first[4], second[4];
    for (unsigned t = 0; t < 2; t++) {
        const size_t at = (part * 8 + q * 2 + t) * kStepBlocks + b;
        sums[t] = {step.sum[at], step.sum16[2 * at], step.sum16[2 * at + 1]};
        first[t] = first[2 + t] = B::first_start(sums[t]);
        second[t] = second[2 + t] = B::second_start(sums[t]);
    }
    if (B::kHalves) {
        const uint32_t low[2] = {a[0], a[1]}, high[2] = {a[2], a[3]};
        mma_k16(first, low, own[q]);
        mma_k16(second, high, own[4 + q]);
    } else {
        const uint32_t words[2] = {own[q], own[4 + q]};
        mma_k32(first, a, words);
    }
    for (unsigned i = 0; i < 4; i++) {
        Term terms[B::kTerms];
        B::terms(rows[i / 2], first[i], second[i], step.scale[(part * 8 + q * 2 + i % 2) * kStepBlocks + b], sums[i % 2], terms);
        for (unsigned j = 0; j < B::kTerms; j++) acc[i] = fmaf(terms[j].p, terms[j].s, acc[i]);
    }
}

/** acc = the products of one group of 16 rows with n tokens, as fragments of 8 tokens. By the whole block; `group` null: only takes part in loading. */
template <class B> __device__ void tile(const MatmulCall& c, const uint8_t* group, size_t begin, unsigned n, float (&acc)[kParts][4]) {
    Step& step = *block_memory<Step>();
    const unsigned lane = threadIdx.x % kWarp, row = lane / 4, q = lane % 4, parts = (n + 7) / 8;
    const size_t blocks = c.a.columns / 32;
    for (unsigned part = 0; part < kParts; part++) {
        for (unsigned i = 0; i < 4; i++) acc[part][i] = 0;
    }
    for (size_t first = 0; first < blocks; first += kStepBlocks) {
        const size_t count = blocks - first < kStepBlocks ? blocks - first : kStepBlocks;
        load_step(c, begin, n, first, count, step);
        __syncthreads();
        for (size_t b = 0; b < count && group; b++) {
            const uint8_t* at = B::block(group, first + b);
            uint32_t a[4];
            B::pair(at, row, q, a[0], a[2]);
            B::pair(at, row + 8, q, a[1], a[3]);
            const typename B::Row rows[2] = {B::row(group, first + b, at, row), B::row(group, first + b, at, row + 8)};
            for (unsigned part = 0; part < kParts; part++) {
                if (part < parts) block_step<B>(step, part, b, a, rows, acc[part]);
            }
        }
        __syncthreads();
    }
}

template <class B> __global__ void __launch_bounds__(kThreads) tiles_kernel(MatmulCall c, size_t group_bytes) {
    const OwnRows own = own_rows(c);
    const MatrixView w = c.weight.at(own.expert);
    const size_t groups = (w.rows + 15) / 16, group = size_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
    const size_t place = group * group_bytes;
    const bool has_rows = group < groups;
    const unsigned lane = threadIdx.x % kWarp;
    for (size_t begin = own.begin + size_t{blockIdx.z} * kTokens; begin < own.end; begin += size_t{gridDim.z} * kTokens) {
        const unsigned n = static_cast<unsigned>(own.end - begin < kTokens ? own.end - begin : kTokens);
        float values[kParts][4], ups[kParts][4];
        tile<B>(c, has_rows ? w.packed + place : nullptr, begin, n, values);
        if (c.fused) tile<B>(c, has_rows ? c.up.at(own.expert).packed + place : nullptr, begin, n, ups);
        if (!has_rows) continue;
        for (unsigned part = 0; part < kParts; part++) {
            for (unsigned i = 0; i < 4; i++) {
                const unsigned token = part * 8 + lane % 4 * 2 + i % 2;
                const size_t row = group * 16 + lane / 4 + i / 2 * 8;
                if (token >= n || row >= w.rows) continue;
                const float value = with_bias(w, row, values[part][i]);
                write_out(c, begin + token, row, c.fused ? activate(c.activation, value, with_bias(c.up.at(own.expert), row, ups[part][i])) : value);
            }
        }
    }
}

template <class B> Status launch_tiles(Stream& stream, const MatmulCall& c) {
    const size_t groups = (c.weight.shape.rows + 15) / 16;
    size_t tokens = (c.count + kTokens - 1) / kTokens;
    if (tokens > kMostTokenBlocks) tokens = kMostTokenBlocks;
    return launch("matmul", stream, {(groups + kWarps - 1) / kWarps, c.expert_count, tokens}, kThreads, sizeof(Step), tiles_kernel<B>, c, packed_group_bytes(c.weight.shape.type, c.weight.shape.columns));
}

}  // namespace

Status matmul_tiles(Stream& stream, const MatmulCall& c) {
    switch (c.weight.shape.type) {
        case DType::Q4_0: return launch_tiles<PackedQ4_0>(stream, c);
        case DType::Q8_0: return launch_tiles<PackedQ8_0>(stream, c);
        case DType::Q6_K: return launch_tiles<PackedQ6_K>(stream, c);
        case DType::Q4_K: return launch_tiles<PackedQ4_K>(stream, c);
        case DType::MXFP4: return launch_tiles<PackedMXFP4>(stream, c);
        case DType::Q4_1: return launch_tiles<PackedQ4_1>(stream, c);
        case DType::Q5_0: return launch_tiles<PackedQ5_0>(stream, c);
        case DType::Q5_1: return launch_tiles<PackedQ5_1>(stream, c);
        case DType::Q5_K: return launch_tiles<PackedQ5_K>(stream, c);
        case DType::IQ4_NL: return launch_tiles<PackedIQ4_NL>(stream, c);
        case DType::IQ4_XS: return launch_tiles<PackedIQ4_XS>(stream, c);
        default: return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, "matmul: the tile form is for quantised weights");
    }
}

}  // namespace cuda
}  // namespace tmoe
