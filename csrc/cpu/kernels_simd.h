// All kernels over one vector type, as a table. An isa_*.cpp includes vec_*.h and then this inside its target region.
// Standard headers are included before the region opens (cpu/isa_prelude.h).
#pragma once

#include "cpu/math_simd.h"
#include "cpu/quantise_simd.h"
#include "cpu/matmul_simd.h"
#include "cpu/attention_simd.h"

namespace tmoe {
namespace {

constexpr Kernels table_of(Isa isa) {
    return {isa,  quantise_row,   matmul,  rms_norm, rope,     kv_write,
            attend, quantise_state, dot_i64, softmax,  block_maxima, sigmoid,  silu_mul,
            clamped_swiglu, sigmoid_scale, combine_row};
}

}  // namespace
}  // namespace tmoe
