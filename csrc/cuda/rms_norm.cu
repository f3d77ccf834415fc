// rms_norm: a block has one row. Sixteen lanes walk the squares in order, then the tree 8-4-2-1.
#include "cuda/dense.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kThreads = 256;

__global__ void rms_norm_kernel(RmsNormCall c) {
    float* scale = block_memory<float>();
    const size_t at = c.stride ? blockIdx.x / c.token_rows * c.stride + blockIdx.x % c.token_rows * c.n : blockIdx.x * c.n;
    const float* x = c.x + at;
    float* out = c.out + at;
    if (threadIdx.x < kWarp) {  // both halves of the warp do the same
        float squares = 0;
        for (size_t i = threadIdx.x % 16; i < c.n; i += 16) squares = fmaf(x[i], x[i], squares);
        const float sum = tree_sum(squares);
        if (threadIdx.x == 0) {
            *scale = 1.0f / sqrtf(sum / static_cast<float>(c.n) + c.epsilon);
            if (!(sum <= 3.402823466e38f) && c.marks.tokens) atomicMin(c.marks.tokens + blockIdx.x / c.token_rows, c.marks.mark);
        }
    }
    __syncthreads();
    for (size_t i = threadIdx.x; i < c.n; i += kThreads) out[i] = x[i] * *scale * c.weight[i];
}

__global__ void gather_kernel(const float* x, const uint32_t* rows, size_t width, float* out) {
    const float* from = x + rows[blockIdx.x] * width;
    for (size_t i = threadIdx.x; i < width; i += kThreads) out[blockIdx.x * width + i] = from[i];
}

__global__ void finite_kernel(FiniteCall c) {
    for (size_t i = threadIdx.x; i < c.width; i += kThreads) {
        if (!finite(c.x[blockIdx.x * c.width + i])) atomicMin(c.marks.tokens + c.tokens[blockIdx.x], c.marks.mark);
    }
}

}  // namespace

Status mark_not_finite(Stream& stream, const FiniteCall& c) { return launch("mark_not_finite", stream, {c.rows}, kThreads, 0, finite_kernel, c); }

Status rms_norm(Stream& stream, const RmsNormCall& c) { return launch("rms_norm", stream, {c.rows}, kThreads, sizeof(float), rms_norm_kernel, c); }

Status gather_rows(Stream& stream, const float* x, const uint32_t* rows, size_t count, size_t width, float* out) {
    return launch("gather_rows", stream, {count}, kThreads, 0, gather_kernel, x, rows, width, out);
}

}  // namespace cuda
}  // namespace tmoe
