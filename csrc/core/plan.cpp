#include "core/plan.h"

#include <cmath>

#include "cpu/route_groups.h"
#include "cpu/route_hser.h"

namespace tmoe {

namespace {

constexpr uint32_t kMostWidth = 1u << 20;
constexpr uint32_t kMostHeadDim = 4096;
constexpr uint64_t kMostElements = uint64_t{1} << 48;  // of a tensor: far beyond any machine, and no size in bytes overflows

const char* op_name(OpKind kind) {
    static const char* const names[] = {"embed", "rmsNorm", "matmul", "rope", "attention", "route", "experts", "logits", "scale", "gated", "headMatmul"};
    return names[static_cast<uint32_t>(kind)];
}

/** Checks one plan; every method returns false and leaves a message at the first thing that does not hold. */
class Checker {
  public:
    explicit Checker(const Plan& plan) : plan_(plan) {}

    Status run() {
        if (plan_.vocab == 0 || plan_.layers == 0 || plan_.context_length == 0) return bad("vocab, layers and contextLength must be positive");
        if (plan_.layers > plan_.ops.size()) return bad(format("%u layers of %zu operations", plan_.layers, plan_.ops.size()));  // a page of the KV cache has all layers
        for (size_t i = 0; i < plan_.buffer_widths.size(); i++) {
            if (plan_.buffer_widths[i] == 0 || plan_.buffer_widths[i] > kMostWidth) {
                return bad(format("buffer '%s' has width %u; 1 to %u", plan_.buffer_names[i].c_str(), plan_.buffer_widths[i], kMostWidth));
            }
        }
        for (const PlanTensor& tensor : plan_.tensors) {
            const size_t dims = dimensions(tensor.role);
            const bool rows = tensor.role == TensorRole::Vector && tensor.shape.size() == 2;  // one vector for each expert
            if (tensor.shape.size() != dims && !rows) return bad(format("tensor '%s' needs %zu dimensions", tensor.name.c_str(), dims));
            uint64_t elements = 1;
            for (uint64_t n : tensor.shape) {
                if (n == 0 || n > UINT32_MAX) return bad(format("tensor '%s' has a dimension of %llu", tensor.name.c_str(), static_cast<unsigned long long>(n)));
                if (n > kMostElements / elements) return bad(format("tensor '%s' has too many elements", tensor.name.c_str()));
                elements *= n;
            }
            TMOE_RETURN_IF_ERROR(check_cut(tensor));
        }
        for (index_ = 0; index_ < plan_.ops.size(); index_++) {
            op_ = &plan_.ops[index_];
            TMOE_RETURN_IF_ERROR(check_op());
        }
        return {};
    }

  private:
    static size_t dimensions(TensorRole role) {
        switch (role) {
            case TensorRole::Vector:
            case TensorRole::RouterBias:
            case TensorRole::SelectionBias: return 1;
            case TensorRole::Heads:
            case TensorRole::Experts: return 3;
            default: return 2;
        }
    }
    Status bad(std::string what) const {
        std::string where = op_ ? format("plan operation %zu (%s): ", index_, op_name(op_->kind)) : std::string("plan: ");
        return Status(StatusCode::VALIDATION_ERROR, where + what);
    }
    bool has_buffer(uint32_t index) const { return index < plan_.buffer_widths.size(); }
    uint32_t width(uint32_t index) const { return plan_.buffer_widths[index]; }
    bool is(uint32_t tensor, TensorRole role) const { return tensor < plan_.tensors.size() && plan_.tensors[tensor].role == role; }
    uint64_t dim(uint32_t tensor, size_t axis) const { return plan_.tensors[tensor].shape[axis]; }

    Status shape(uint32_t tensor, uint64_t columns, uint64_t rows) const {
        if (dim(tensor, 0) == columns && dim(tensor, 1) == rows) return {};
        return Status(StatusCode::TENSOR_SHAPE_MISMATCH, format("tensor '%s' is %llu × %llu, the plan needs %llu × %llu", plan_.tensors[tensor].name.c_str(),
                                                                static_cast<unsigned long long>(dim(tensor, 0)), static_cast<unsigned long long>(dim(tensor, 1)),
                                                                static_cast<unsigned long long>(columns), static_cast<unsigned long long>(rows)))
            .with("tensor", plan_.tensors[tensor].name)
            .with("expected", format("%llu × %llu", static_cast<unsigned long long>(columns), static_cast<unsigned long long>(rows)))
            .with("actual", format("%llu × %llu", static_cast<unsigned long long>(dim(tensor, 0)), static_cast<unsigned long long>(dim(tensor, 1))));
    }

    /** An optional vector of n numbers, or of n for each of `rows`. */
    Status vector(uint32_t tensor, uint64_t n, uint64_t rows = 1) const {
        if (tensor == kNoTensor) return {};
        if (!is(tensor, TensorRole::Vector)) return bad("needs vector tensors");
        const std::vector<uint64_t>& own = plan_.tensors[tensor].shape;
        if (own[0] == n && (own.size() > 1 ? own[1] : 1) == rows) return {};
        return bad(format("the vector '%s' must be %llu × %llu", plan_.tensors[tensor].name.c_str(), static_cast<unsigned long long>(n), static_cast<unsigned long long>(rows)));
    }

    Status check_op() {
        const PlanOp& op = *op_;
        if (!has_buffer(op.in) || !has_buffer(op.out)) return bad("names no buffer");
        switch (op.kind) {
            case OpKind::Embed:
                if (!is(op.weight, TensorRole::Embedding)) return bad("needs an embedding tensor");
                return shape(op.weight, width(op.out), plan_.vocab);
            case OpKind::RmsNorm:
                if (!is(op.weight, TensorRole::Vector) || plan_.tensors[op.weight].shape.size() != 1) return bad("needs a vector tensor");
                if (!(op.epsilon >= 0) || !std::isfinite(op.epsilon)) return bad("epsilon must be a number ≥ 0");
                if (width(op.in) != width(op.out) || (op.runs == 0 && width(op.in) % dim(op.weight, 0) != 0)) return bad("widths do not divide by the weight's length");
                if (op.runs && (op.in != op.out || op.runs * dim(op.weight, 0) > width(op.in))) return bad("runs must be of a row that is normalised in place");
                return {};
            case OpKind::Matmul:
                if (op.parts.empty()) return bad("needs at least one part");
                for (size_t i = 0; i < op.parts.size(); i++) {
                    const MatmulPart& part = op.parts[i];
                    if (!is(part.weight, TensorRole::Matrix) || !has_buffer(part.out)) return bad("needs matrix tensors and buffers");
                    if (part.out == op.in) return bad("cannot write the buffer that it reads");
                    for (size_t j = 0; j < i; j++) {
                        if (op.parts[j].out == part.out) return bad("has two parts that write one buffer");  // threads would race
                    }
                    TMOE_RETURN_IF_ERROR(shape(part.weight, width(op.in), width(part.out)));
                    TMOE_RETURN_IF_ERROR(vector(part.bias, width(part.out)));
                }
                return {};
            case OpKind::Rope:
                if (!op.heads || !op.head_dim || op.head_dim > kMostHeadDim || uint64_t{op.heads} * op.head_dim != width(op.in)) return bad("heads × headDim must be the buffer's width");
                if (op.rotary_dim == 0 || op.rotary_dim % 2 || uint64_t{op.offset} + op.rotary_dim > op.head_dim) {
                    return bad("rotaryDim must be even, positive and, with the offset, at most headDim");
                }
                if (!(op.base >= 1) || !std::isfinite(op.base)) return bad("base must be a number ≥ 1");
                if (!(op.scaling.factor >= 1) || !(op.scaling.magnitude > 0) || op.scaling.none == op.scaling.all) return bad("needs a factor ≥ 1, a magnitude > 0, and shares that differ");
                return vector(op.divisors, op.rotary_dim / 2);
            case OpKind::Attention: return check_attention();
            case OpKind::Route: return check_route();
            case OpKind::Experts: return check_experts();
            case OpKind::Logits:
                if (!is(op.weight, TensorRole::Matrix)) return bad("needs a matrix tensor");
                return shape(op.weight, width(op.in), plan_.vocab);
            case OpKind::Gated:
                if (!has_buffer(op.gate) || op.gate == op.in) return bad("needs a gate beside its buffer");
                if (width(op.gate) != (op.gate_form == GateForm::Silu ? width(op.in) : 1)) return bad("the gate's width is not that of its form");
                return {};
            case OpKind::HeadMatmul: return check_head_matmul();
            case OpKind::Scale:
                if (!(op.scale > 0) || !std::isfinite(op.scale)) return bad("by must be a number above 0");
                return {};
        }
        return bad("is unknown");
    }

    Status check_cut(const PlanTensor& tensor) const {
        const HeadCut& cut = tensor.cut;
        if (cut.height == 0) return {};
        if (tensor.role != TensorRole::Heads || uint64_t{cut.first} + tensor.shape[cut.transposed ? 0 : 1] > cut.height) {
            return bad(format("tensor '%s' is cut beyond its heads", tensor.name.c_str()));
        }
        return {};
    }

    Status check_head_matmul() {
        const PlanOp& op = *op_;
        if (!is(op.weight, TensorRole::Heads)) return bad("needs a heads tensor");
        const uint64_t columns = dim(op.weight, 0), rows = dim(op.weight, 1), heads = dim(op.weight, 2);
        if (op.in == op.out || heads > kMostWidth || width(op.in) % heads || width(op.out) % heads) return bad("in and out must be two buffers of whole heads");
        const uint64_t from = width(op.in) / heads, to = width(op.out) / heads;
        if (from < columns || to < rows || from - columns != to - rows) return bad("what follows the product in a head of out must be what follows its columns in one of in");
        return {};
    }

    Status check_attention() {
        const PlanOp& op = *op_;
        if (!has_buffer(op.k_buffer) || !has_buffer(op.v_buffer)) return bad("names no buffer");
        if (!op.heads || !op.kv_heads || op.heads % op.kv_heads) return bad("heads must be a multiple of kvHeads");
        if (!op.head_dim || !op.value_dim || op.head_dim > kMostHeadDim || op.value_dim > kMostHeadDim) return bad("headDim and valueDim are out of range");
        if (uint64_t{op.heads} * op.head_dim != width(op.in) || uint64_t{op.kv_heads} * op.head_dim != width(op.k_buffer) ||
            uint64_t{op.heads} * op.value_dim != width(op.out)) {
            return bad("widths of q, k, v, out do not match the heads");
        }
        if (op.v_buffer == op.k_buffer ? op.kv_heads != 1 || op.value_dim > op.head_dim : uint64_t{op.kv_heads} * op.value_dim != width(op.v_buffer)) {
            return bad("the width of v does not match the heads");
        }
        if (op.layer >= plan_.layers || !std::isfinite(op.scale)) return bad("layer or scale is out of range");
        TMOE_RETURN_IF_ERROR(vector(op.sinks, op.heads));
        for (const PlanOp& other : plan_.ops) {
            if (other.kind != OpKind::Attention) continue;
            if (other.kv_heads != op.kv_heads || other.head_dim != op.head_dim || other.value_dim != op.value_dim) return bad("all layers need the same KV sizes");
            if (&other != &op && other.layer == op.layer) return bad("shares its layer with another");
        }
        return {};
    }

    Status check_route() {
        const PlanOp& op = *op_;
        if (!is(op.weight, TensorRole::Router)) return bad("needs a router tensor");
        const uint64_t experts = dim(op.weight, 1);
        if (dim(op.weight, 0) != width(op.in) || width(op.in) > kMaxRouterWidth) return bad("the router's width is not the buffer's");
        if (op.form == RouteForm::Hser) TMOE_RETURN_IF_ERROR(check_levels(experts));
        if (experts > kMaxExperts || op.k == 0 || op.k > experts || op.k > kMaxActive) return bad(format("k = %u of %llu experts", op.k, static_cast<unsigned long long>(experts)));
        for (const PlanOp& other : plan_.ops) {
            if (other.kind == OpKind::Route && is(other.weight, TensorRole::Router) && (other.k != op.k || dim(other.weight, 1) != experts)) {
                return bad("all layers need the same number of experts and the same k");  // masks and captures have one shape
            }
        }
        TMOE_RETURN_IF_ERROR(check_biases(experts));
        routed_ = op_;
        return {};
    }

    /** What a route has beside its router; the rest of it is checked as at the kernel. */
    Status check_biases(uint64_t experts) {
        const PlanOp& op = *op_;
        const auto fits = [&](uint32_t tensor, TensorRole role) { return tensor == kNoTensor || (is(tensor, role) && dim(tensor, 0) == experts); };
        if (!fits(op.bias, TensorRole::RouterBias) || !fits(op.selection_bias, TensorRole::SelectionBias)) return bad("has biases that are not one number per expert");
        if (!std::isfinite(op.weights_scale)) return bad("the weights' scale is not a number");
        RouteArgs args = {};
        args.form = op.form;
        args.k = op.k;
        args.router.experts = experts;
        const int32_t bias = 0;
        const int64_t selection_bias = 0;
        if (op.bias != kNoTensor) args.bias = &bias;
        if (op.selection_bias != kNoTensor) args.selection_bias = &selection_bias;
        args.groups = op.groups;
        const Status status = check_extras(args);
        return status.ok() ? status : bad(status.message());
    }

    Status check_levels(uint64_t experts) {
        const PlanHser& h = op_->hser;
        if (!is(h.tier_router, TensorRole::Router) || !is(h.group_router, TensorRole::Router)) return bad("needs router tensors of tiers and groups");
        if (h.tier_groups.size() < 2 || h.group_experts.size() < 2 || experts > kMaxExperts) return bad("needs tiers and groups");
        const size_t tiers = h.tier_groups.size() - 1, groups = h.group_experts.size() - 1;
        TMOE_RETURN_IF_ERROR(shape(h.tier_router, width(op_->in), tiers));
        TMOE_RETURN_IF_ERROR(shape(h.group_router, width(op_->in), groups));
        HserRouting routing = {};
        routing.tiers.experts = tiers;
        routing.groups.experts = groups;
        routing.tier_groups = h.tier_groups.data();
        routing.group_experts = h.group_experts.data();
        routing.k_tier = h.k_tier;
        routing.k_group = h.k_group;
        routing.k_expert = h.k_expert;
        routing.bound = h.bound;
        const Status status = check_hser(routing, experts, op_->k);
        return status.ok() ? status : bad(status.message());
    }

    Status check_experts() {
        const PlanOp& op = *op_;
        if (!routed_) return bad("has no route before it");
        if (!is(op.gate, TensorRole::Experts) || !is(op.up, TensorRole::Experts) || !is(op.down, TensorRole::Experts)) return bad("needs experts tensors");
        const uint64_t count = dim(routed_->weight, 1), hidden = dim(op.gate, 1);
        if (dim(op.gate, 2) != count || dim(op.up, 2) != count || dim(op.down, 2) != count) return bad("the number of experts is not the router's");
        if (width(op.in) != width(op.out) || op.in == op.out) return bad("in and out must be two buffers of one width");
        if (hidden > kMostWidth) return bad("hidden width is out of range");
        TMOE_RETURN_IF_ERROR(shape(op.gate, width(op.in), hidden));
        TMOE_RETURN_IF_ERROR(shape(op.up, width(op.in), hidden));
        TMOE_RETURN_IF_ERROR(vector(op.gate_bias, hidden, count));
        TMOE_RETURN_IF_ERROR(vector(op.up_bias, hidden, count));
        TMOE_RETURN_IF_ERROR(vector(op.down_bias, width(op.out), count));
        return shape(op.down, hidden, width(op.out));
    }

    const Plan& plan_;
    size_t index_ = 0;
    const PlanOp* op_ = nullptr;
    const PlanOp* routed_ = nullptr;
};

}  // namespace

Status validate(const Plan& plan) { return Checker(plan).run(); }

}  // namespace tmoe
