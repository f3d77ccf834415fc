// gated and head_matmul's other half: elementwise, a thread has one float.
#include "cuda/dense.h"
#include "cuda/math.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kThreads = 256;

__global__ void gated_kernel(GatedCall c) {
    const size_t index = size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (index >= c.rows * c.n) return;
    if (!c.by_row) {
        c.x[index] = silu(c.gate[index]) * c.x[index];
        return;
    }
    const float gate = c.gate[index / c.n];
    c.x[index] = sigmoid(gate) * c.x[index];
    if (index % c.n == 0 && !finite(gate) && c.marks.tokens) atomicMin(c.marks.tokens + index / c.n, c.marks.mark);
}

__global__ void carry_kernel(CarryCall c) {
    const size_t index = size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (index >= c.rows * c.carried) return;
    const size_t row = index / c.carried, i = index % c.carried;
    c.out[row * (c.to + c.carried) + c.to + i] = c.x[row * (c.from + c.carried) + c.from + i];
}

size_t blocks_of(size_t count) { return (count + kThreads - 1) / kThreads; }

}  // namespace

Status gated(Stream& stream, const GatedCall& c) { return launch("gated", stream, {blocks_of(c.rows * c.n)}, kThreads, 0, gated_kernel, c); }

Status carry(Stream& stream, const CarryCall& c) { return launch("carry", stream, {blocks_of(c.rows * c.carried)}, kThreads, 0, carry_kernel, c); }

}  // namespace cuda
}  // namespace tmoe
