// gated: the elementwise part of a gated feed-forward (GLU Variants, Shazeer 2020; SwiGLU where the gate is silu), and the scaling of a row
// by the sigmoid of one number, as Qwen2-MoE's shared expert is scaled. Each element is computed alone: exp as in cpu/math_simd.h, then
// silu(g) = g / (1 + exp(-g)), sigmoid(g) = 1 / (1 + exp(-g)), then one product.
#pragma once
#include "cpu/expert_matmul.h"

namespace tmoe {

struct GatedArgs {
    float* x;                ///< [rows][n], in place
    const float* gate;       ///< [rows][n], or, of a sigmoid, [rows]
    size_t rows, n;
    bool by_row;             ///< false: x = silu(gate) ∘ x; true: x = sigmoid(gate) · x
};
/** CANCELLED. Of the form by row, a gate that is not finite marks its row: a sigmoid would hide it. */
Status gated(const Context& context, const GatedArgs& args, const NonFinite& bad);
/** Same contract; plain loops. */
Status gated_ref(const GatedArgs& args);

}  // namespace tmoe
