// matmul and expert_matmul over packed matrices (quant/repack.h), and the quantisation of their activations.
//
// Quantised weights: activations become int8 per block of 32 (amax by bits, id = 127 / amax, round to nearest even, scale = amax / 127,
// a block below 2^-119 is zero); integer dots are exact; one fma(scale_w · scale_a, float(isum), acc) per block, blocks in order;
// types with minimums (Q4_1, Q5_1, Q4_K, Q5_K) have a second, of the minimum's scale and the block sum of the activations, right after it.
// Float weights: one fma per column, columns in order. K-quants: sub-scales multiply as integers inside the 32-block.
#pragma once
#include <cstdint>
#include <functional>

#include "core/host_device.h"
#include "core/memory.h"
#include "cpu/kernels.h"

namespace tmoe {

/** Memory for quantised rows, reused from call to call. */
class ActivationBuffer {
  public:
    /** RESOURCE_MEMORY_EXHAUSTED. Columns: a multiple of 32. */
    Status reserve(size_t rows, size_t columns) { return blocks_.reserve(bytes(rows, columns)); }
    ActivationBlock* row(size_t index, size_t columns, size_t column = 0) { return blocks_.as<ActivationBlock>() + (index * columns + column) / kActBlock; }
    static size_t bytes(size_t rows, size_t columns) { return rows * columns / kActBlock * sizeof(ActivationBlock); }

  private:
    Buffer blocks_;
};

/** Told about tokens with values that are not finite: called with the row's index, from any thread. */
struct NonFinite {
    std::atomic<uint8_t>* rows = nullptr;   ///< one flag per row; null = not wanted
    void mark(size_t row) const {
        if (rows) rows[row].store(1, std::memory_order_relaxed);
    }
};

/** Quantises rows of x ([rows][stride], `columns` used) into the buffer, on all threads. False when cancelled. */
bool quantise_rows(const Context& context, const float* x, size_t rows, size_t columns, size_t stride, ActivationBuffer& to,
                   const NonFinite& bad);

struct MatmulTarget {
    MatrixView weight;
    float* out;              ///< [count][out_stride]
    size_t out_stride;
};
/** out[i] (+)= W · a[i] for each target; all targets share the activations. False when cancelled. */
bool matmul(const Context& context, const ActivationView& a, size_t count, const MatmulTarget* targets, size_t target_count,
            bool add);
/** The weights of its item-th piece of work, for ThreadPool::expect; none where there are fewer. */
Span matmul_item(size_t threads, const MatmulTarget* targets, size_t target_count, size_t item);

/** One matrix of every expert: packed one after another, or each inside a blob of its own. */
struct ExpertStack {
    MatrixView shape;                        ///< of one expert; `packed` is the first, where they stand one after another
    size_t stride;                           ///< bytes from one expert to the next; inside blobs: from a blob's begin to the matrix
    const uint8_t* const* blobs = nullptr;   ///< [experts], of those that are computed; null where they stand one after another
    const uint32_t* bias_of = nullptr;       ///< [experts]: which of the biases at shape.bias each one has; null: its own
    TMOE_HOST_DEVICE MatrixView at(size_t expert) const {
        MatrixView view = shape;
        view.packed = blobs ? blobs[expert] + stride : shape.packed + expert * stride;
        if (shape.bias) view.bias = shape.bias + (bias_of ? bias_of[expert] : expert) * shape.rows;
        return view;
    }
};

/**
 * What an expert makes of g = gate · x and u = up · x. Silu: g · sigmoid(g) · u (SwiGLU, Shazeer 2020). ClampedSwiglu:
 * g' · sigmoid(1.702 g') · (u' + 1) with g' = min(g, 7), u' = clamp(u, -7, 7) (gpt-oss, swiglu in its reference code).
 */
enum class ExpertActivation : uint32_t { Silu, ClampedSwiglu };

struct ExpertMatmulArgs {
    const float* x;              ///< [tokens][width]
    size_t tokens, width, k, experts;
    ExpertStack gate, up, down;  ///< [hidden × width], [hidden × width], [width × hidden]
    const uint32_t* offsets;     ///< [experts + 1], from dispatch
    const uint32_t* slots;       ///< [tokens · k], from dispatch
    float* out;                  ///< [tokens · k][width], in row order
    ExpertActivation activation = ExpertActivation::Silu;
    const std::function<void()>* before_down = nullptr;   ///< called when the last product of a part begins: ThreadPool::expect what follows
};

/** What decides how much memory expert_matmul takes beside its arguments. */
struct ExpertSizes {
    size_t tokens, k, width, hidden_width, threads;
    size_t rows() const { return tokens * k; }
};

/** Scratch of expert_matmul, reused from call to call. */
struct ExpertScratch {
    ActivationBuffer x, hidden;
    Buffer values, strips, tokens, items, used;   ///< values: of experts that are not quantised; used: the experts that have rows
    /** RESOURCE_MEMORY_EXHAUSTED. */
    Status reserve(const ExpertSizes& sizes);
    static size_t bytes(const ExpertSizes& sizes);
};

/**
 * out[row] = down · act(gate · x, up · x) for each dispatched row. Shapes are checked by the caller. VALIDATION_ERROR where offsets
 * and slots are not a dispatch; CANCELLED; RESOURCE_MEMORY_EXHAUSTED.
 */
Status expert_matmul(const Context& context, const ExpertMatmulArgs& args, ExpertScratch& scratch, const NonFinite& bad);

/**
 * The same in parts, as experts arrive: `begin` once, then parts that together name every expert that has rows. Rows of different experts
 * are independent, so the parts change no bit. `blobs` need hold only the part's experts.
 */
Status begin_expert_matmul(const Context& context, const ExpertMatmulArgs& args, ExpertScratch& scratch, const NonFinite& bad);
/** CANCELLED. `experts`: ids, each once over all parts; those without rows are passed over. */
Status expert_matmul_part(const Context& context, const ExpertMatmulArgs& args, const uint32_t* experts, size_t count, ExpertScratch& scratch,
                          const NonFinite& bad);

/** Naive twins, on weights in the file's layout: `raw` holds rows × columns of the type, experts one after another. */
struct RawMatrix {
    DType type;
    size_t rows, columns;
    const uint8_t* raw;
    const float* bias = nullptr;   ///< [rows]; null = none
};
/** out[i] = W · x[i] + bias: x [count][columns], out [count][rows]. RUNTIME_NAN_DETECTED {token} where a quantised weight meets a value that is not finite. */
Status matmul_ref(const RawMatrix& weight, const float* x, size_t count, float* out);
struct ExpertMatmulRefArgs {
    const float* x;
    size_t tokens, width, k, experts;
    RawMatrix gate, up, down;    ///< of the first expert
    const uint32_t* offsets;
    const uint32_t* slots;
    float* out;
    ExpertActivation activation = ExpertActivation::Silu;
};
Status expert_matmul_ref(const ExpertMatmulRefArgs& args);

/** VALIDATION_ERROR where offsets [experts + 1] and slots [rows] are not a dispatch: shared by both forms. */
Status check_dispatched(const uint32_t* offsets, size_t experts, const uint32_t* slots, size_t rows);

}  // namespace tmoe
