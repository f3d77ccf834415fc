// What both forms of matmul share: which rows a block has, where their activations are and where results go.
#pragma once
#include "cuda/math.h"
#include "cuda/matmul.h"

namespace tmoe {
namespace cuda {

struct OwnRows {
    size_t expert, begin, end;   ///< rows of out
};

/** blockIdx.y counts the experts of the call; without offsets there is one, with `count` rows. */
__device__ inline OwnRows own_rows(const uint32_t* offsets, const uint32_t* experts, size_t count) {
    if (!offsets) return {0, 0, count};
    const size_t expert = experts ? experts[blockIdx.y] : blockIdx.y;
    return {expert, offsets[expert], offsets[expert + 1]};
}

__device__ inline OwnRows own_rows(const MatmulCall& c) { return c.heads ? OwnRows{blockIdx.y, 0, c.count} : own_rows(c.offsets, c.experts, c.count); }

__device__ inline uint32_t activation_row(const MatmulCall& c, size_t row) {
    if (c.heads) return static_cast<uint32_t>(row * c.heads + blockIdx.y);
    return c.slots ? c.slots[row] / c.k : static_cast<uint32_t>(row);
}

__device__ inline float activate(ExpertActivation kind, float gate, float up) { return kind == ExpertActivation::Silu ? silu(gate) * up : clamped_swiglu(gate, up); }

/** A finished product with its matrix's bias. */
__device__ inline float with_bias(const MatrixView& w, size_t row, float value) { return w.bias && row < w.rows ? value + w.bias[row] : value; }

__device__ inline void write_out(const MatmulCall& c, size_t row, size_t column, float value) {
    float& out = c.out[row * c.out_stride + (c.heads ? blockIdx.y * c.head_stride : 0) + column];
    out = c.add ? out + value : value;
}

/** The tile form; quantised weights. */
Status matmul_tiles(Stream& stream, const MatmulCall& call);

}  // namespace cuda
}  // namespace tmoe
