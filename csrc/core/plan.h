// A plan as the executor runs it: named operations with their buffers and tensors resolved to indices.
// lib/model/plan.ts is the same list in TypeScript; napi/bind_model.cpp reads one into the other.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "cpu/expert_matmul.h"
#include "cpu/rope.h"

namespace tmoe {

enum class TensorRole : uint32_t { Embedding, Matrix, Experts, Router, Vector, RouterBias, SelectionBias };

struct PlanTensor {
    std::string name;
    TensorRole role;
    std::vector<uint64_t> shape;   ///< innermost first, as in the file
    std::string source = {};       ///< the file's tensor where that has another name: a tied output matrix is read from the embedding

    const std::string& file_name() const { return source.empty() ? name : source; }
};

enum class OpKind : uint32_t { Embed, RmsNorm, Matmul, Rope, Attention, Route, Experts, Logits, Scale };
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
    uint32_t weight = 0;                    ///< embed, rmsNorm, route, logits
    std::vector<MatmulPart> parts;          ///< matmul
    bool add = false;                       ///< matmul
    float epsilon = 0;                      ///< rmsNorm
    uint32_t heads = 0, kv_heads = 0, head_dim = 0, value_dim = 0, rotary_dim = 0;
    double base = 0;                        ///< rope
    RopeScaling scaling;                    ///< rope
    uint32_t divisors = kNoTensor;          ///< rope: a vector of rotary_dim / 2
    RopePairs pairs = RopePairs::Neox;      ///< rope (buffer: `in`)
    uint32_t k_buffer = 0, v_buffer = 0;    ///< attention (q: `in`)
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
    uint32_t gate = 0, up = 0, down = 0;    ///< experts
    uint32_t gate_bias = kNoTensor, up_bias = kNoTensor, down_bias = kNoTensor;   ///< vectors of [rows, experts]
    ExpertActivation activation = ExpertActivation::Silu;
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
