// Activations to int8 per block of 32: a warp has one block, a lane one value.
#include "cuda/matmul_rows.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kThreads = 128, kBlocks = kThreads / kWarp;
constexpr size_t kMostBlocks = 1024;      // of one expert; they walk on over further rows
constexpr uint32_t kTiny = 0x04000000u;   // 2^-119: below it 127 / amax would overflow, so the block is zero

__device__ inline void quantise_block(const QuantiseCall& c, size_t index, size_t all) {
    const unsigned lane = threadIdx.x % kWarp;
    const size_t row = index / all, block = index % all;
    const float x = c.x[row * c.stride + block * 32 + lane];
    const uint32_t most = warp_max(float_bits(x) & 0x7fffffffu);
    const bool zero = most < kTiny || most >= kInfinity;
    const float amax = bits_float(most);
    const int q = zero ? 0 : static_cast<int>(rintf(x * (127.0f / amax)));
    const int half = half_warp_sum(q), other = __shfl_xor_sync(kAllLanes, half, 16);
    c.q[row * c.columns + block * 32 + lane] = static_cast<int8_t>(q);
    if (lane % 16 == 0) c.sum16[index * 2 + lane / 16] = -32 * half;
    if (lane != 0) return;
    c.scale[index] = zero ? 0.0f : amax / 127.0f;
    c.sum[index] = -8 * (half + other);
    if (most >= kInfinity && c.marks.tokens) atomicMin(c.marks.tokens + (c.slots ? c.slots[row] : row) / c.k, c.marks.mark);
}

__global__ void quantise_kernel(QuantiseCall c) {
    const OwnRows own = own_rows(c.offsets, c.experts, c.rows);
    const size_t all = c.columns / 32, end = own.end * all;
    // A warp leaves as a whole.
    for (size_t index = own.begin * all + size_t{blockIdx.x} * kBlocks + threadIdx.x / kWarp; index < end; index += size_t{gridDim.x} * kBlocks) quantise_block(c, index, all);
}

}  // namespace

Status quantise(Stream& stream, const QuantiseCall& c) {
    const size_t blocks = (c.rows * (c.columns / 32) + kBlocks - 1) / kBlocks;
    return launch("quantise", stream, {c.offsets && blocks > kMostBlocks ? kMostBlocks : blocks, c.offsets ? c.expert_count : 1}, kThreads, 0, quantise_kernel, c);
}

}  // namespace cuda
}  // namespace tmoe
