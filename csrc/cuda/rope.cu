// rope: a thread has one pair. Angles come from the host's tables, which are the CPU's.
#include "cuda/dense.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kThreads = 128;

__global__ void rope_kernel(RopeCall c) {
    const size_t index = size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (index >= c.tokens * c.heads * c.half) return;
    const size_t i = index % c.half, head = index / c.half, token = head / c.heads;
    float* x = c.x + head * c.head_dim + c.offset;
    const bool neox = c.pairs == RopePairs::Neox;
    float &first = x[neox ? i : 2 * i], &second = x[neox ? c.half + i : 2 * i + 1];
    const float p = first, q = second, cosine = c.cosines[token * c.half + i], sine = c.sines[token * c.half + i];
    first = fmaf(p, cosine, -(q * sine));
    second = fmaf(q, cosine, p * sine);
}

}  // namespace

Status rope(Stream& stream, const RopeCall& c) {
    return launch("rope", stream, {(c.tokens * c.heads * c.half + kThreads - 1) / kThreads}, kThreads, 0, rope_kernel, c);
}

}  // namespace cuda
}  // namespace tmoe
