// Row form of matmul (see matmul.h), and the choice between the forms.
#include "cuda/matmul.h"

#include "cuda/math.h"
#include "cuda/matmul_rows.h"
#include "cuda/packed_blocks.h"
#include "quant/repack.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kThreads = 256, kSlices = kThreads / 16;
constexpr size_t kFloatColumns = 128;      // columns of float weights in shared memory at a time
constexpr size_t kFewRows = 8;             // up to so many rows the row form reads weights as fast as they come
constexpr size_t kMostTokenBlocks = 64;    // blocks walk on over further tokens

template <class B, unsigned T> struct BlockSteps {
    static constexpr size_t kBlocks = T == 1 ? 64 : 32;   ///< of 32 columns, whose terms wait in shared memory
    static constexpr size_t kSharedBytes = T * kBlocks * 16 * B::kTerms * sizeof(Term);

    /** The chain of token `slice` and row `row`, of one group of rows; other slices get nothing of use. */
    static __device__ float run(const uint8_t* group, const DeviceActivations& a, const uint32_t (&rows)[T], unsigned n) {
        Term* terms = block_memory<Term>();
        const unsigned row = threadIdx.x % 16, slice = threadIdx.x / 16;
        const size_t blocks = a.columns / 32;
        float acc = 0;
        for (size_t first = 0; first < blocks; first += kBlocks) {
            const size_t count = blocks - first < kBlocks ? blocks - first : kBlocks;
            for (size_t b = slice; b < count; b += kSlices) make_terms(group, first + b, row, a, rows, n, terms + (b * 16 + row) * B::kTerms);
            __syncthreads();
            if (slice < n) {
                const Term* own = terms + (slice * kBlocks * 16 + row) * B::kTerms;
                for (size_t b = 0; b < count; b++) {
                    for (unsigned i = 0; i < B::kTerms; i++) acc = fmaf(own[b * 16 * B::kTerms + i].p, own[b * 16 * B::kTerms + i].s, acc);
                }
            }
            __syncthreads();
        }
        return acc;
    }

    static __device__ void make_terms(const uint8_t* group, size_t block, unsigned row, const DeviceActivations& a, const uint32_t (&rows)[T], unsigned n, Term* out) {
        const uint8_t* at = B::block(group, block);
        uint32_t words[8];
        for (unsigned g = 0; g < 4; g++) B::pair(at, row, g, words[g], words[4 + g]);
        const typename B::Row scales = B::row(group, block, at, row);
        for (unsigned t = 0; t < T; t++) {
            if (t >= n) break;
            const size_t index = rows[t] * (a.columns / 32) + block;
            const uint32_t* q = reinterpret_cast<const uint32_t*>(a.q) + index * 8;
            const BlockSums sums = {a.sum[index], a.sum16[2 * index], a.sum16[2 * index + 1]};
            int first = B::first_start(sums), second = B::second_start(sums);
            for (unsigned i = 0; i < 4; i++) first = dot4(words[i], q[i], first);
            for (unsigned i = 4; i < 8; i++) {
                int& half = B::kHalves ? second : first;
                half = dot4(words[i], q[i], half);
            }
            B::terms(scales, first, second, a.scale[index], sums, out + t * kBlocks * 16 * B::kTerms);
        }
    }
};

template <class B, unsigned T> struct FloatSteps {
    static constexpr size_t kSharedBytes = kFloatColumns * 16 * sizeof(float);

    static __device__ float run(const uint8_t* group, const DeviceActivations& a, const uint32_t (&rows)[T], unsigned n) {
        float* weights = block_memory<float>();
        const unsigned row = threadIdx.x % 16, slice = threadIdx.x / 16;
        const float* x = slice < n ? a.values + rows[slice < T ? slice : 0] * a.value_stride : nullptr;
        float acc = 0;
        for (size_t first = 0; first < a.columns; first += kFloatColumns) {
            const size_t count = a.columns - first < kFloatColumns ? a.columns - first : kFloatColumns;
            for (size_t i = threadIdx.x; i < count * 16; i += kThreads) weights[i] = B::value(group, first + i / 16, i % 16);
            __syncthreads();
            if (x) {
                for (size_t c = 0; c < count; c++) acc = fmaf(weights[c * 16 + row], x[first + c], acc);
            }
            __syncthreads();
        }
        return acc;
    }
};

template <class Steps, unsigned T> __global__ void rows_kernel(MatmulCall c, size_t group_bytes) {
    const OwnRows own = own_rows(c);
    const MatrixView w = c.weight.at(own.expert);
    const size_t place = blockIdx.x * group_bytes, row = blockIdx.x * 16 + threadIdx.x % 16;
    const unsigned slice = threadIdx.x / 16;
    for (size_t begin = own.begin + size_t{blockIdx.z} * T; begin < own.end; begin += size_t{gridDim.z} * T) {
        const unsigned n = static_cast<unsigned>(own.end - begin < T ? own.end - begin : T);
        uint32_t rows[T];
        for (unsigned t = 0; t < T; t++) rows[t] = t < n ? activation_row(c, begin + t) : 0;
        float value = with_bias(w, row, Steps::run(w.packed + place, c.a, rows, n));
        if (c.fused) {
            const MatrixView up = c.up.at(own.expert);
            value = activate(c.activation, value, with_bias(up, row, Steps::run(up.packed + place, c.a, rows, n)));
        }
        if (slice < n && row < w.rows) write_out(c, begin + slice, row, value);
    }
}

__global__ void silu_mul_kernel(MatmulCall c, const float* up) {
    const OwnRows own = own_rows(c.offsets, c.experts, c.count);
    const size_t end = own.end * c.out_stride;
    for (size_t i = own.begin * c.out_stride + size_t{blockIdx.x} * kThreads + threadIdx.x; i < end; i += size_t{gridDim.x} * kThreads) c.out[i] = activate(c.activation, c.out[i], up[i]);
}

template <class Steps, unsigned T> Status launch_rows(Stream& stream, const MatmulCall& c) {
    size_t tokens = (c.count + T - 1) / T;
    if (tokens > kMostTokenBlocks) tokens = kMostTokenBlocks;
    return launch("matmul", stream, {(c.weight.shape.rows + 15) / 16, c.expert_count, tokens}, kThreads, Steps::kSharedBytes, rows_kernel<Steps, T>, c, packed_group_bytes(c.weight.shape.type, c.weight.shape.columns));
}

template <unsigned T> Status launch_type(Stream& stream, const MatmulCall& c) {
    switch (c.weight.shape.type) {
        case DType::Q4_0: return launch_rows<BlockSteps<PackedQ4_0, T>, T>(stream, c);
        case DType::Q8_0: return launch_rows<BlockSteps<PackedQ8_0, T>, T>(stream, c);
        case DType::Q6_K: return launch_rows<BlockSteps<PackedQ6_K, T>, T>(stream, c);
        case DType::Q4_K: return launch_rows<BlockSteps<PackedQ4_K, T>, T>(stream, c);
        case DType::MXFP4: return launch_rows<BlockSteps<PackedMXFP4, T>, T>(stream, c);
        case DType::Q4_1: return launch_rows<BlockSteps<PackedQ4_1, T>, T>(stream, c);
        case DType::Q5_0: return launch_rows<BlockSteps<PackedQ5_0, T>, T>(stream, c);
        case DType::Q5_1: return launch_rows<BlockSteps<PackedQ5_1, T>, T>(stream, c);
        case DType::Q5_K: return launch_rows<BlockSteps<PackedQ5_K, T>, T>(stream, c);
        case DType::IQ4_NL: return launch_rows<BlockSteps<PackedIQ4_NL, T>, T>(stream, c);
        case DType::IQ4_XS: return launch_rows<BlockSteps<PackedIQ4_XS, T>, T>(stream, c);
        case DType::F16: return launch_rows<FloatSteps<PackedF16, T>, T>(stream, c);
        case DType::BF16: return launch_rows<FloatSteps<PackedBF16, T>, T>(stream, c);
        case DType::F32: break;
    }
    return launch_rows<FloatSteps<PackedF32, T>, T>(stream, c);
}

}  // namespace

Status matmul(Stream& stream, const DeviceFacts& device, const MatmulCall& c, MatmulForm form) {
    const bool quantised = is_quantised(c.weight.shape.type);
    if (form == MatmulForm::Auto) form = quantised && device.mma && c.count > kFewRows ? MatmulForm::Tiles : MatmulForm::Rows;
    if (form == MatmulForm::Tiles) return matmul_tiles(stream, c);
    // With one token every expert has one row at most.
    return c.count == 1 ? launch_type<1>(stream, c) : launch_type<4>(stream, c);
}

Status silu_mul(Stream& stream, const MatmulCall& c, const float* up) {
    const size_t blocks = (c.count * c.out_stride + kThreads - 1) / kThreads;
    return launch("silu_mul", stream, {blocks < kMostTokenBlocks ? blocks : kMostTokenBlocks, c.expert_count}, kThreads, 0, silu_mul_kernel, c, up);
}

}  // namespace cuda
}  // namespace tmoe
