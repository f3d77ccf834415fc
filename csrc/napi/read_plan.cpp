#include "napi/read_plan.h"

#include <cmath>
#include <unordered_map>

#include "napi/args.h"
#include "napi/errors.h"

namespace tmoe {

namespace {

constexpr int64_t kMostU32 = UINT32_MAX;
constexpr uint32_t kMostItems = 1u << 20;  // of tensors or operations; the largest models have some thousands

template <class Enum> struct Name {
    const char* text;
    Enum value;
};

constexpr Name<TensorRole> kRoles[] = {{"embedding", TensorRole::Embedding},
                                       {"matrix", TensorRole::Matrix},
                                       {"experts", TensorRole::Experts},
                                       {"router", TensorRole::Router},
                                       {"vector", TensorRole::Vector},
                                       {"routerBias", TensorRole::RouterBias},
                                       {"selectionBias", TensorRole::SelectionBias},
                                       {"heads", TensorRole::Heads}};
constexpr Name<OpKind> kOps[] = {{"embed", OpKind::Embed},   {"rmsNorm", OpKind::RmsNorm},     {"matmul", OpKind::Matmul},
                                 {"rope", OpKind::Rope},     {"attention", OpKind::Attention}, {"route", OpKind::Route},
                                 {"experts", OpKind::Experts}, {"logits", OpKind::Logits},       {"scale", OpKind::Scale},
                                 {"gated", OpKind::Gated},   {"headMatmul", OpKind::HeadMatmul}};
constexpr Name<GateForm> kGates[] = {{"silu", GateForm::Silu}, {"sigmoid", GateForm::Sigmoid}};
constexpr Name<RopePairs> kPairs[] = {{"neox", RopePairs::Neox}, {"interleaved", RopePairs::Interleaved}};
constexpr Name<ExpertActivation> kActivations[] = {{"silu", ExpertActivation::Silu}, {"clamped_swiglu", ExpertActivation::ClampedSwiglu}};
constexpr Name<RopeKeep> kKeeps[] = {{"pair", RopeKeep::Pair}, {"turns", RopeKeep::Turns}};
constexpr Name<RouteForm> kForms[] = {{"softmax_topk", RouteForm::SoftmaxTopk}, {"topk_softmax", RouteForm::TopkSoftmax},
                                      {"hser", RouteForm::Hser}, {"sigmoid", RouteForm::Sigmoid}};
constexpr Name<GroupScore> kGroupScores[] = {{"max", GroupScore::Max}, {"top2", GroupScore::Top2}};

class PlanReader {
  public:
    PlanReader(napi_env env, Plan& plan) : env_(env), plan_(plan) {}

    Status read(napi_value value) {
        TMOE_RETURN_IF_ERROR(require_object(env_, value, "plan"));
        napi_value part = nullptr;
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "buffers", part));
        TMOE_RETURN_IF_ERROR(read_buffers(part));
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "tensors", part));
        TMOE_RETURN_IF_ERROR(each(part, "plan.tensors", [this](napi_value item, const std::string& at) { return read_tensor(item, at); }));
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "ops", part));
        TMOE_RETURN_IF_ERROR(each(part, "plan.ops", [this](napi_value item, const std::string& at) { return read_op(item, at); }));
        TMOE_RETURN_IF_ERROR(u32(value, "plan", "layers", plan_.layers));
        TMOE_RETURN_IF_ERROR(u32(value, "plan", "vocab", plan_.vocab));
        TMOE_RETURN_IF_ERROR(u32(value, "plan", "contextLength", plan_.context_length));
        return read_seed(value);
    }

    Status read_tensor(napi_value value, const std::string& at) {
        TMOE_RETURN_IF_ERROR(require_object(env_, value, at));
        PlanTensor tensor;
        napi_value shape = nullptr;
        TMOE_RETURN_IF_ERROR(read_text(env_, value, at.c_str(), "name", tensor.name));
        TMOE_RETURN_IF_ERROR(choice(value, at, "role", kRoles, tensor.role));
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "shape", shape));
        TMOE_RETURN_IF_ERROR(each(shape, at + ".shape", [&](napi_value size, const std::string& place) {
            int64_t number = 0;
            TMOE_RETURN_IF_ERROR(read_integer(env_, size, place, 1, INT32_MAX, number));
            tensor.shape.push_back(static_cast<uint64_t>(number));
            return Status();
        }));
        napi_value source = nullptr;
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "source", source));
        if (!is_undefined(env_, source)) TMOE_RETURN_IF_ERROR(read_text(env_, source, at + ".source", tensor.source));
        TMOE_RETURN_IF_ERROR(read_cut(value, at, tensor.cut));
        if (!tensors_.emplace(tensor.name, static_cast<uint32_t>(plan_.tensors.size())).second) {
            return Status(StatusCode::VALIDATION_ERROR, at + ".name: " + tensor.name + " is there twice").with("argument", at + ".name");
        }
        plan_.tensors.push_back(std::move(tensor));
        return {};
    }

  private:
    template <class Fn> Status each(napi_value array, const std::string& at, Fn&& fn) {
        uint32_t length = 0;
        TMOE_RETURN_IF_ERROR(read_array(env_, array, at, length));
        if (length > kMostItems) return invalid_argument(env_, at, format("at most %u entries", kMostItems), array);
        for (uint32_t i = 0; i < length; i++) {
            napi_handle_scope scope = nullptr;
            if (napi_open_handle_scope(env_, &scope) != napi_ok) return exception_pending();
            const Status status = item(array, i, at, fn);
            napi_close_handle_scope(env_, scope);
            if (!status.ok()) return status;
        }
        return {};
    }

    template <class Fn> Status item(napi_value array, uint32_t index, const std::string& at, Fn&& fn) {
        napi_value value = nullptr;
        TMOE_RETURN_IF_ERROR(read_element(env_, array, index, value));
        return fn(value, at + format("[%u]", index));
    }

    Status read_buffers(napi_value object) {
        TMOE_RETURN_IF_ERROR(require_object(env_, object, "plan.buffers"));
        napi_value names = nullptr;
        if (napi_get_property_names(env_, object, &names) != napi_ok) return exception_pending();
        return each(names, "plan.buffers", [&](napi_value key, const std::string& at) {
            std::string name;
            napi_value value = nullptr;
            int64_t width = 0;
            TMOE_RETURN_IF_ERROR(read_text(env_, key, at, name));
            if (napi_get_property(env_, object, key, &value) != napi_ok) return exception_pending();
            TMOE_RETURN_IF_ERROR(read_integer(env_, value, "plan.buffers." + name, 1, INT32_MAX, width));
            buffers_.emplace(name, static_cast<uint32_t>(plan_.buffer_names.size()));
            plan_.buffer_names.push_back(name);
            plan_.buffer_widths.push_back(static_cast<uint32_t>(width));
            return Status();
        });
    }

    Status read_op(napi_value value, const std::string& at) {
        TMOE_RETURN_IF_ERROR(require_object(env_, value, at));
        PlanOp op;
        TMOE_RETURN_IF_ERROR(choice(value, at, "op", kOps, op.kind));
        TMOE_RETURN_IF_ERROR(read_op_fields(value, at, op));
        plan_.ops.push_back(std::move(op));
        return {};
    }

    Status read_op_fields(napi_value value, const std::string& at, PlanOp& op) {
        switch (op.kind) {
            case OpKind::Embed:
                TMOE_RETURN_IF_ERROR(tensor(value, at, "table", op.weight));
                return buffer(value, at, "out", op.out);
            case OpKind::RmsNorm:
                TMOE_RETURN_IF_ERROR(buffer(value, at, "in", op.in));
                TMOE_RETURN_IF_ERROR(tensor(value, at, "weight", op.weight));
                TMOE_RETURN_IF_ERROR(buffer(value, at, "out", op.out));
                TMOE_RETURN_IF_ERROR(optional_u32(value, at, "runs", op.runs));
                return real(value, at, "epsilon", 0, op.epsilon);
            case OpKind::Matmul:
                return read_matmul(value, at, op);
            case OpKind::Rope:
                TMOE_RETURN_IF_ERROR(buffer(value, at, "buffer", op.in));
                TMOE_RETURN_IF_ERROR(u32(value, at, "heads", op.heads));
                TMOE_RETURN_IF_ERROR(u32(value, at, "headDim", op.head_dim));
                TMOE_RETURN_IF_ERROR(u32(value, at, "rotaryDim", op.rotary_dim));
                TMOE_RETURN_IF_ERROR(optional_u32(value, at, "offset", op.offset));
                TMOE_RETURN_IF_ERROR(read_number(env_, value, at.c_str(), "base", 0, 1e300, op.base));
                TMOE_RETURN_IF_ERROR(optional_tensor(value, at, "divisors", op.divisors));
                TMOE_RETURN_IF_ERROR(read_scaling(value, at, op.scaling));
                return choice(value, at, "pairs", kPairs, op.pairs);
            case OpKind::Attention:
                TMOE_RETURN_IF_ERROR(buffer(value, at, "q", op.in));
                TMOE_RETURN_IF_ERROR(buffer(value, at, "k", op.k_buffer));
                TMOE_RETURN_IF_ERROR(buffer(value, at, "v", op.v_buffer));
                TMOE_RETURN_IF_ERROR(buffer(value, at, "out", op.out));
                TMOE_RETURN_IF_ERROR(u32(value, at, "heads", op.heads));
                TMOE_RETURN_IF_ERROR(u32(value, at, "kvHeads", op.kv_heads));
                TMOE_RETURN_IF_ERROR(u32(value, at, "headDim", op.head_dim));
                TMOE_RETURN_IF_ERROR(u32(value, at, "valueDim", op.value_dim));
                TMOE_RETURN_IF_ERROR(real(value, at, "scale", -3e38, op.scale));
                TMOE_RETURN_IF_ERROR(optional_u32(value, at, "window", op.window));
                TMOE_RETURN_IF_ERROR(optional_tensor(value, at, "sinks", op.sinks));
                return u32(value, at, "layer", op.layer);
            case OpKind::Route:
                TMOE_RETURN_IF_ERROR(buffer(value, at, "in", op.in));
                TMOE_RETURN_IF_ERROR(tensor(value, at, "weight", op.weight));
                TMOE_RETURN_IF_ERROR(u32(value, at, "k", op.k));
                TMOE_RETURN_IF_ERROR(choice(value, at, "form", kForms, op.form));
                TMOE_RETURN_IF_ERROR(read_boolean(env_, value, at.c_str(), "normalise", op.normalise));
                if (op.form == RouteForm::Hser) TMOE_RETURN_IF_ERROR(read_hser(value, at, op.hser));
                TMOE_RETURN_IF_ERROR(read_route_extras(value, at, op));
                return u32(value, at, "layer", op.layer);
            case OpKind::Experts:
                TMOE_RETURN_IF_ERROR(buffer(value, at, "in", op.in));
                TMOE_RETURN_IF_ERROR(tensor(value, at, "gate", op.gate));
                TMOE_RETURN_IF_ERROR(tensor(value, at, "up", op.up));
                TMOE_RETURN_IF_ERROR(tensor(value, at, "down", op.down));
                TMOE_RETURN_IF_ERROR(choice(value, at, "activation", kActivations, op.activation));
                TMOE_RETURN_IF_ERROR(read_biases(value, at, op));
                TMOE_RETURN_IF_ERROR(buffer(value, at, "out", op.out));
                return u32(value, at, "layer", op.layer);
            case OpKind::Logits:
                TMOE_RETURN_IF_ERROR(buffer(value, at, "in", op.in));
                return tensor(value, at, "weight", op.weight);
            case OpKind::Gated:
                TMOE_RETURN_IF_ERROR(buffer(value, at, "buffer", op.in));
                TMOE_RETURN_IF_ERROR(buffer(value, at, "gate", op.gate));
                return choice(value, at, "form", kGates, op.gate_form);
            case OpKind::HeadMatmul:
                TMOE_RETURN_IF_ERROR(buffer(value, at, "in", op.in));
                TMOE_RETURN_IF_ERROR(tensor(value, at, "weight", op.weight));
                return buffer(value, at, "out", op.out);
            case OpKind::Scale:
                TMOE_RETURN_IF_ERROR(buffer(value, at, "buffer", op.in));
                op.out = op.in;
                return real(value, at, "by", 0, op.scale);
        }
        return {};
    }

    Status read_cut(napi_value object, const std::string& at, HeadCut& out) {
        napi_value value = nullptr;
        TMOE_RETURN_IF_ERROR(read_property(env_, object, "cut", value));
        if (is_undefined(env_, value)) return {};
        const std::string place = at + ".cut";
        TMOE_RETURN_IF_ERROR(require_object(env_, value, place));
        int64_t height = 0;
        TMOE_RETURN_IF_ERROR(read_integer(env_, value, place.c_str(), "height", 1, INT32_MAX, height));
        out.height = static_cast<uint32_t>(height);
        TMOE_RETURN_IF_ERROR(u32(value, place, "first", out.first));
        return read_boolean(env_, value, place.c_str(), "transposed", out.transposed);
    }

    Status read_biases(napi_value experts, const std::string& at, PlanOp& op) {
        napi_value value = nullptr;
        const std::string place = at + ".biases";
        TMOE_RETURN_IF_ERROR(read_property(env_, experts, "biases", value));
        if (is_undefined(env_, value)) return {};
        TMOE_RETURN_IF_ERROR(require_object(env_, value, place));
        TMOE_RETURN_IF_ERROR(tensor(value, place, "gate", op.gate_bias));
        TMOE_RETURN_IF_ERROR(tensor(value, place, "up", op.up_bias));
        return tensor(value, place, "down", op.down_bias);
    }

    Status read_matmul(napi_value value, const std::string& at, PlanOp& op) {
        napi_value parts = nullptr, add = nullptr;
        TMOE_RETURN_IF_ERROR(buffer(value, at, "in", op.in));
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "parts", parts));
        TMOE_RETURN_IF_ERROR(each(parts, at + ".parts", [&](napi_value part, const std::string& place) {
            MatmulPart read = {};
            TMOE_RETURN_IF_ERROR(require_object(env_, part, place));
            TMOE_RETURN_IF_ERROR(tensor(part, place, "weight", read.weight));
            TMOE_RETURN_IF_ERROR(buffer(part, place, "out", read.out));
            TMOE_RETURN_IF_ERROR(optional_tensor(part, place, "bias", read.bias));
            op.parts.push_back(read);
            return Status();
        }));
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "add", add));
        return is_undefined(env_, add) ? Status() : read_boolean(env_, add, at + ".add", op.add);
    }

    Status read_scaling(napi_value rope, const std::string& at, RopeScaling& out) {
        napi_value value = nullptr, keep = nullptr;
        const std::string place = at + ".scaling", kept = place + ".keep";
        TMOE_RETURN_IF_ERROR(read_property(env_, rope, "scaling", value));
        if (is_undefined(env_, value)) return {};
        TMOE_RETURN_IF_ERROR(require_object(env_, value, place));
        TMOE_RETURN_IF_ERROR(read_number(env_, value, place.c_str(), "factor", 1, 1e9, out.factor));
        TMOE_RETURN_IF_ERROR(read_number(env_, value, place.c_str(), "magnitude", 1e-9, 1e9, out.magnitude));
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "keep", keep));
        if (is_undefined(env_, keep)) return {};
        TMOE_RETURN_IF_ERROR(require_object(env_, keep, kept));
        TMOE_RETURN_IF_ERROR(choice(keep, kept, "by", kKeeps, out.keep));
        TMOE_RETURN_IF_ERROR(read_number(env_, keep, kept.c_str(), "none", -1e15, 1e15, out.none));
        TMOE_RETURN_IF_ERROR(read_number(env_, keep, kept.c_str(), "all", -1e15, 1e15, out.all));
        TMOE_RETURN_IF_ERROR(read_number(env_, keep, kept.c_str(), "most", 0, 1, out.most));
        if (out.keep == RopeKeep::Pair) return {};
        return read_number(env_, keep, kept.c_str(), "originalContext", 1, 1e15, out.original_context);
    }

    Status read_route_extras(napi_value value, const std::string& at, PlanOp& op) {
        napi_value scale = nullptr, groups = nullptr;
        TMOE_RETURN_IF_ERROR(optional_tensor(value, at, "bias", op.bias));
        TMOE_RETURN_IF_ERROR(optional_tensor(value, at, "selectionBias", op.selection_bias));
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "scale", scale));
        if (!is_undefined(env_, scale)) TMOE_RETURN_IF_ERROR(real(value, at, "scale", -3e38, op.weights_scale));
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "groups", groups));
        if (is_undefined(env_, groups)) return {};
        const std::string place = at + ".groups";
        TMOE_RETURN_IF_ERROR(require_object(env_, groups, place));
        TMOE_RETURN_IF_ERROR(u32(groups, place, "count", op.groups.count));
        if (op.groups.count == 0) return invalid_argument(env_, place + ".count", "a positive integer", groups);
        TMOE_RETURN_IF_ERROR(u32(groups, place, "used", op.groups.used));
        return choice(groups, place, "score", kGroupScores, op.groups.score);
    }

    Status read_hser(napi_value route, const std::string& at, PlanHser& out) {
        napi_value value = nullptr;
        const std::string place = at + ".hser";
        TMOE_RETURN_IF_ERROR(read_property(env_, route, "hser", value));
        TMOE_RETURN_IF_ERROR(require_object(env_, value, place));
        TMOE_RETURN_IF_ERROR(tensor(value, place, "tierRouter", out.tier_router));
        TMOE_RETURN_IF_ERROR(tensor(value, place, "groupRouter", out.group_router));
        TMOE_RETURN_IF_ERROR(offsets(value, place, "tierGroups", out.tier_groups));
        TMOE_RETURN_IF_ERROR(offsets(value, place, "groupExperts", out.group_experts));
        TMOE_RETURN_IF_ERROR(u32(value, place, "kTier", out.k_tier));
        TMOE_RETURN_IF_ERROR(u32(value, place, "kGroup", out.k_group));
        TMOE_RETURN_IF_ERROR(u32(value, place, "kExpert", out.k_expert));
        return u32(value, place, "bound", out.bound);
    }

    Status offsets(napi_value object, const std::string& at, const char* key, std::vector<uint32_t>& out) {
        napi_value list = nullptr;
        TMOE_RETURN_IF_ERROR(read_property(env_, object, key, list));
        return each(list, at + "." + key, [&](napi_value item, const std::string& place) {
            int64_t number = 0;
            TMOE_RETURN_IF_ERROR(read_integer(env_, item, place, 0, INT32_MAX, number));
            out.push_back(static_cast<uint32_t>(number));
            return Status();
        });
    }

    Status read_seed(napi_value value) {
        napi_value seed = nullptr;
        uint32_t length = 0;
        TMOE_RETURN_IF_ERROR(read_property(env_, value, "routingSeed", seed));
        TMOE_RETURN_IF_ERROR(read_array(env_, seed, "plan.routingSeed", length));
        if (length != 4) return invalid_argument(env_, "plan.routingSeed", "four 32-bit integers", seed);
        for (uint32_t i = 0; i < 4; i++) {
            napi_value word = nullptr;
            int64_t number = 0;
            TMOE_RETURN_IF_ERROR(read_element(env_, seed, i, word));
            TMOE_RETURN_IF_ERROR(read_integer(env_, word, format("plan.routingSeed[%u]", i), 0, kMostU32, number));
            plan_.routing_seed[i] = static_cast<uint32_t>(number);
        }
        return {};
    }

    template <class Enum, size_t N>
    Status choice(napi_value object, const std::string& at, const char* key, const Name<Enum> (&names)[N], Enum& out) {
        std::string text, allowed;
        TMOE_RETURN_IF_ERROR(read_text(env_, object, at.c_str(), key, text));
        for (const Name<Enum>& name : names) {
            if (text == name.text) {
                out = name.value;
                return {};
            }
            allowed += (allowed.empty() ? "" : ", ") + std::string(name.text);
        }
        return unknown(at + "." + key, "one of " + allowed, text);
    }

    Status buffer(napi_value object, const std::string& at, const char* key, uint32_t& out) {
        return lookup(object, at, key, "the name of a buffer", buffers_, out);
    }
    Status tensor(napi_value object, const std::string& at, const char* key, uint32_t& out) {
        return lookup(object, at, key, "the name of a tensor", tensors_, out);
    }
    /** kNoTensor where the plan does not name one. */
    Status optional_tensor(napi_value object, const std::string& at, const char* key, uint32_t& out) {
        napi_value value = nullptr;
        out = kNoTensor;
        TMOE_RETURN_IF_ERROR(read_property(env_, object, key, value));
        return is_undefined(env_, value) ? Status() : tensor(object, at, key, out);
    }
    Status lookup(napi_value object, const std::string& at, const char* key, const char* expected,
                  const std::unordered_map<std::string, uint32_t>& names, uint32_t& out) {
        std::string text;
        TMOE_RETURN_IF_ERROR(read_text(env_, object, at.c_str(), key, text));
        const auto found = names.find(text);
        if (found == names.end()) return unknown(at + "." + key, expected, text);
        out = found->second;
        return {};
    }
    static Status unknown(const std::string& argument, const std::string& expected, const std::string& actual) {
        return Status(StatusCode::VALIDATION_ERROR, argument + ": expected " + expected + ", got " + actual)
            .with("argument", argument)
            .with("expected", expected)
            .with("actual", actual);
    }

    Status u32(napi_value object, const std::string& at, const char* key, uint32_t& out) {
        int64_t number = 0;
        TMOE_RETURN_IF_ERROR(read_integer(env_, object, at.c_str(), key, 0, INT32_MAX, number));
        out = static_cast<uint32_t>(number);
        return {};
    }
    /** Stays as it is where the property is not there. */
    Status optional_u32(napi_value object, const std::string& at, const char* key, uint32_t& out) {
        napi_value value = nullptr;
        TMOE_RETURN_IF_ERROR(read_property(env_, object, key, value));
        return is_undefined(env_, value) ? Status() : u32(object, at, key, out);
    }
    Status real(napi_value object, const std::string& at, const char* key, double least, float& out) {
        double number = 0;
        TMOE_RETURN_IF_ERROR(read_number(env_, object, at.c_str(), key, least, 3e38, number));
        out = static_cast<float>(number);
        return {};
    }

    napi_env env_;
    Plan& plan_;
    std::unordered_map<std::string, uint32_t> buffers_, tensors_;
};

}  // namespace

Status read_plan(napi_env env, napi_value value, Plan& out) { return PlanReader(env, out).read(value); }

Status read_plan_tensor(napi_env env, napi_value value, const std::string& at, PlanTensor& out) {
    Plan plan;
    TMOE_RETURN_IF_ERROR(PlanReader(env, plan).read_tensor(value, at));
    out = std::move(plan.tensors.front());
    return {};
}

}  // namespace tmoe
