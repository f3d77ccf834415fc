// A plan as the executor runs it: named operations with their buffers and tensors resolved to indices.
// lib/model/plan.ts is the same list in TypeScript; napi/bind_model.cpp reads one into the other.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "cpu/expert_matmul.h"
#include "cpu/rope.h"

namespace tmoe {

enum class TensorRole : uint32_t { Embedding, Matrix, Experts, Router, Vector, RouterBias, SelectionBias, Heads };

/** Kept in the layout of the matrix kernels (quant/repack.h). */
inline bool is_packed(TensorRole role) { return role == TensorRole::Matrix || role == TensorRole::Experts || role == TensorRole::Heads; }

/**
 * A matrix per head out of a file's matrix [columns, heads · height]: of each head's rows those from `first` on. `transposed`: these rows
 * are the matrix's columns, and it is kept in F32, because blocks of another type do not turn round.
 */
struct HeadCut {
    uint32_t height = 0;   ///< 0 = the tensor is read as it is
    uint32_t first = 0;
    bool transposed = false;
};

struct PlanTensor {
    std::string name;
    TensorRole role;
    std::vector<uint64_t> shape;   ///< innermost first, as in the file
    std::string source = {};       ///< the file's tensor where that has another name: a tied output matrix is read from the embedding
    HeadCut cut = {};              ///< of heads: how the file's tensor is cut into them

    const std::string& file_name() const { return source.empty() ? name : source; }
    std::vector<uint64_t> file_shape() const {
        return cut.height ? std::vector<uint64_t>{shape[cut.transposed ? 1 : 0], shape[2] * cut.height} : shape;
    }
};

enum class OpKind : uint32_t { Embed, RmsNorm, Matmul, Rope, Attention, Route, Experts, Logits, Scale, Gated, HeadMatmul };
/** What a gate becomes: each element of it, or, of the sigmoid, the one that a row has. */
enum class GateForm : uint32_t { Silu, Sigmoid };
enum class RouteForm : uint32_t { SoftmaxTopk, TopkSoftmax, Hser, Sigmoid };

/** A group's score: its best expert's, or the sum of its two best. */
enum class GroupScore : uint32_t { Max, Top2 };

/** Experts in `count` equal groups, of which the `used` best stay in the choice (cpu/route_groups.h). No groups: count 0. */
struct RouteGroups {
    uint32_t count = 0, used = 0;
    GroupScore score = GroupScore::Max;
};

/** The upper levels of a hierarchical route (cpu/route_hser.h); `weight` is the expert router. */
struct PlanHser {
    uint32_t tier_router = 0, group_router = 0;
    std::vector<uint32_t> tier_groups, group_experts;   ///< offsets: one more entry than tiers and than groups
    uint32_t k_tier = 0, k_group = 0, k_expert = 0, bound = 0;
};

/** Where an operation goes without a tensor. */
inline constexpr uint32_t kNoTensor = UINT32_MAX;

struct MatmulPart {
    uint32_t weight, out;
    uint32_t bias = kNoTensor;   ///< a vector of the weight's rows, added once to the product
};

/** One operation. Tensors and buffers are indices into the plan's lists; fields that an operation has no use for are zero. */
struct PlanOp {
    OpKind kind = OpKind::Embed;
    uint32_t in = 0, out = 0;
    uint32_t weight = 0;                    ///< embed, rmsNorm, route, logits, headMatmul
    std::vector<MatmulPart> parts;          ///< matmul
    bool add = false;                       ///< matmul
    float epsilon = 0;                      ///< rmsNorm
    uint32_t runs = 0;                      ///< rmsNorm: of a row, from its begin; 0 = all of it
    uint32_t offset = 0;                    ///< rope: floats of a head before those that are rotated
    uint32_t heads = 0, kv_heads = 0, head_dim = 0, value_dim = 0, rotary_dim = 0;
    double base = 0;                        ///< rope
    RopeScaling scaling;                    ///< rope
    uint32_t divisors = kNoTensor;          ///< rope: a vector of rotary_dim / 2
    RopePairs pairs = RopePairs::Neox;      ///< rope (buffer: `in`)
    uint32_t k_buffer = 0, v_buffer = 0;    ///< attention (q: `in`); the values may be the keys' first floats
    float scale = 0;                        ///< attention; scale: what the buffer `in` is multiplied by
    uint32_t window = 0, sinks = kNoTensor; ///< attention: positions that a token sees (0 = all), and a vector of a score per head
    uint32_t layer = 0;                     ///< attention: cache slot; route: layer of the tie hash; experts: report
    uint32_t k = 0;                         ///< route
    RouteForm form = RouteForm::SoftmaxTopk;
    bool normalise = false;
    float weights_scale = 1;                ///< route
    RouteGroups groups;                     ///< route
    uint32_t bias = kNoTensor, selection_bias = kNoTensor;   ///< route
    PlanHser hser;                          ///< route of the form Hser
    uint32_t gate = 0, up = 0, down = 0;    ///< experts; gated: `gate` is a buffer, and `in` the one that it changes
    uint32_t gate_bias = kNoTensor, up_bias = kNoTensor, down_bias = kNoTensor;   ///< experts: vectors of [rows, experts]
    ExpertActivation activation = ExpertActivation::Silu;
    GateForm gate_form = GateForm::Silu;    ///< gated
};

struct Plan {
    std::vector<std::string> buffer_names;
    std::vector<uint32_t> buffer_widths;
    std::vector<PlanTensor> tensors;
    std::vector<PlanOp> ops;
    uint32_t layers = 0, vocab = 0, context_length = 0;
    uint32_t routing_seed[4] = {0, 0, 0, 0};
};

/**
 * Checks what the executor relies on: indices, widths against tensor shapes, head counts, dims, k. Everything that could read or
 * write out of bounds is refused here. VALIDATION_ERROR or TENSOR_SHAPE_MISMATCH with the operation and the sizes.
 */
Status validate(const Plan& plan);

}  // namespace tmoe
