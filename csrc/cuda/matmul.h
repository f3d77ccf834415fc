// matmul and the two halves of expert_matmul on the device. Pointers are the device's.
//
// Two forms with the same bits. Rows: a block has one group of 16 rows; the integer dots of all blocks of K are spread over its threads, then
// one thread per output walks the chain of fma in K order. Tiles: a warp has 16 rows × 32 tokens; mma.sync makes each block's dots, the lanes
// walk their chains. Weights that are not quantised have the first form alone.
#pragma once
#include "cpu/expert_matmul.h"
#include "cuda/api.h"

namespace tmoe {
namespace cuda {

/** Lowest mark of each token whose values are not finite, or what was there; null = not wanted. */
struct Marks {
    uint32_t* tokens = nullptr;
    uint32_t mark = 0;
};

/** Rows of activations: floats, and (where the matrix is quantised) int8 with one scale and sums per block of 32 (ActivationBlock), in arrays of their own. */
struct DeviceActivations {
    size_t columns = 0;
    const float* values = nullptr;    ///< [rows][value_stride]
    size_t value_stride = 0;
    const int8_t* q = nullptr;        ///< [rows][columns]
    const float* scale = nullptr;     ///< [rows][columns / 32]
    const int32_t* sum = nullptr;     ///< [rows][columns / 32]: -8 times the sum of a block's q
    const int32_t* sum16 = nullptr;   ///< [rows][columns / 16]: -32 times the sum of 16 q
};

/** Int8 of rows of x: q, scale and sums as DeviceActivations has them. */
struct QuantiseCall {
    const float* x;                 ///< [rows][stride]
    size_t rows, columns, stride;   ///< columns: a multiple of 32
    int8_t* q;
    float* scale;
    int32_t *sum, *sum16;
    Marks marks = {};
    /** A row's token is row / k. Dispatched rows: those of experts [expert_count] (null: 0 …) by offsets; the token of a row is slots[row] / k. `rows` bounds one expert's. */
    const uint32_t *offsets = nullptr, *slots = nullptr, *experts = nullptr;
    size_t expert_count = 1;
    uint32_t k = 1;
};
Status quantise(Stream& stream, const QuantiseCall& call);

enum class MatmulForm { Auto, Rows, Tiles };

struct MatmulCall {
    ExpertStack weight;                  ///< of a matmul: one expert
    ExpertStack up = {};                 ///< fused: out = activation(weight · x, up · x)
    bool fused = false;
    ExpertActivation activation = ExpertActivation::Silu;
    DeviceActivations a;
    size_t count = 0;                    ///< rows of out; of experts: tokens, which bound the rows of one
    const uint32_t* offsets = nullptr;   ///< [experts + 1]; null: one matrix for all rows
    const uint32_t* slots = nullptr;     ///< a dispatched row reads the activations of token slots[row] / k; null: its own
    uint32_t k = 1;
    const uint32_t* experts = nullptr;   ///< [expert_count] ids; null: 0 … expert_count - 1
    size_t expert_count = 1;
    size_t heads = 0;                    ///< above 0: of head_matmul. Every row meets each of `expert_count` = heads matrices: rows of `a` are (row, head)
    size_t head_stride = 0;              ///< floats from one head's product to the next in a row of out
    float* out = nullptr;                ///< [rows][out_stride]
    size_t out_stride = 0;
    bool add = false;
};
/** Forms other than Auto are for tests; Tiles needs quantised weights. */
Status matmul(Stream& stream, const DeviceFacts& device, const MatmulCall& call, MatmulForm form = MatmulForm::Auto);

/** out = activation(out, up) over the same rows: what `fused` does, for gate and up of different types. */
Status silu_mul(Stream& stream, const MatmulCall& call, const float* up);

}  // namespace cuda
}  // namespace tmoe
