// Kernel calls of routing and experts: route, dispatch, expertMatmul, combine, the packing of an all-to-all, and weights for them.
#include <cmath>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/route_hser.h"
#include "cpu/route_score.h"
#include "napi/kernel_calls.h"
#include "quant/repack.h"

namespace tmoe {

namespace {

Status not_finite(const char* op, size_t token) {
    return Status(StatusCode::RUNTIME_NAN_DETECTED, format("%s: row %zu has a value that is not finite", op, token))
        .with("token", static_cast<double>(token));
}

// [type, rows, columns, experts, data, out]
KernelWork read_pack(KernelArgs& in, bool) {
    const DType type = in.dtype("type");
    const size_t rows = in.size("rows", 0, kMostSize), columns = in.size("columns", 0, kMostSize), experts = in.size("experts", 0, kMaxExperts);
    in.parts("columns", columns, dtype_info(type).block);
    const size_t row = row_bytes(type, columns), packed = packed_bytes(type, rows, columns);
    const uint8_t* from = in.bytes("data", product(experts, rows, row));
    uint8_t* to = in.out_aligned_bytes("out", product(experts, packed));
    return {[=](const Context& context, KernelScratch&) {
                const size_t groups = (rows + kLanes - 1) / kLanes, group_bytes = packed_group_bytes(type, columns);
                const bool done = context.pool.for_each(experts * groups, context.cancel, [&](size_t item, size_t) {
                    const size_t expert = item / groups, first = item % groups * kLanes;
                    const size_t count = rows - first < kLanes ? rows - first : kLanes;
                    pack_group(type, from + (expert * rows + first) * row, count, columns, to + expert * packed + first / kLanes * group_bytes);
                });
                return done ? Status() : Status(StatusCode::CANCELLED, "pack was cancelled");
            },
            nullptr};
}

// [weights, out] → exponent
KernelWork read_pack_router(KernelArgs& in, bool) {
    const float* weights = in.floats("weights", 0);
    const size_t count = in.last_length();
    int32_t* to = in.out_int32s("out", count);
    auto exponent = std::make_shared<int>(0);
    return {[=](const Context& context, KernelScratch&) -> Status {
                TMOE_RETURN_IF_ERROR(check_finite("packRouter", weights, 1, count));
                *exponent = context.kernels.quantise_state(weights, count, to);
                return {};
            },
            [=](napi_env env, napi_value& out) {
                out = js_number(env, *exponent);
                return Status();
            }};
}

// [bias, out]
KernelWork read_pack_selection_bias(KernelArgs& in, bool) {
    const float* bias = in.floats("bias", 0);
    const size_t count = in.last_length();
    int64_t* to = in.out_int64s("out", count);
    return {[=](const Context&, KernelScratch&) -> Status {
                TMOE_RETURN_IF_ERROR(check_finite("packSelectionBias", bias, 1, count));
                for (size_t i = 0; i < count; i++) to[i] = selection_bias_of(bias[i]);
                return {};
            },
            nullptr};
}

/** Scores are exact in 64 bits only for such numbers. */
bool within_24_bits(const int32_t* numbers, size_t count) {
    constexpr uint32_t kMost = uint32_t{1} << 23;
    uint32_t outside = 0;  // most numbers are strictly inside, which one pass without branches shows
    for (size_t i = 0; i < count; i++) outside |= (static_cast<uint32_t>(numbers[i]) + kMost) >> 24;
    for (size_t i = 0; outside != 0 && i < count; i++) {
        if (static_cast<uint32_t>(numbers[i]) + kMost > 2 * kMost) return false;
    }
    return true;
}

/** [router, exponent]: `rows` rows as wide as the others'. */
RouterView read_router(KernelArgs& in, const char* name, size_t rows, size_t width) {
    RouterView out = {};
    out.weights = in.int32s(name, product(rows, width));
    out.exponent = static_cast<int>(in.number((std::string(name) + "Exponent").c_str(), -200, 200));
    out.experts = rows;
    out.width = width;
    if (in.ok() && !within_24_bits(out.weights, rows * width)) in.refuse(std::string(name) + ": a number has more than 24 bits; packRouter makes them");
    return out;
}

// [tierGroups, groupExperts, tierRouter, exponent, groupRouter, exponent, kTier, kGroup, kExpert, bound]
std::shared_ptr<HserRouting> read_hser(KernelArgs& in, size_t width) {
    auto out = std::make_shared<HserRouting>();
    out->tier_groups = in.indices("hser.tierGroups", 2);
    const size_t tiers = in.last_length() > 0 ? in.last_length() - 1 : 0;
    out->group_experts = in.indices("hser.groupExperts", 2);
    const size_t groups = in.last_length() > 0 ? in.last_length() - 1 : 0;
    if (tiers > kMaxExperts || groups > kMaxExperts) in.refuse(format("hser: %zu tiers and %zu groups; at most %zu", tiers, groups, kMaxExperts));
    out->tiers = read_router(in, "hser.tierRouter", tiers, width);
    out->groups = read_router(in, "hser.groupRouter", groups, width);
    out->k_tier = in.size("hser.kTier", 1, kMaxActive);
    out->k_group = in.size("hser.kGroup", 1, kMaxActive);
    out->k_expert = in.size("hser.kExpert", 1, kMaxActive);
    out->bound = in.size("hser.bound", 1, kMaxActive);
    return out;
}

/** [enabled?, maskOf?] of a route: one mask for all tokens, or the mask that each token names, null = all enabled. */
std::shared_ptr<std::vector<const uint8_t*>> read_masks(KernelArgs& in, RouteArgs& a) {
    const size_t experts = a.router.experts;
    a.enabled = in.optional_mask("enabled", experts);
    const size_t masks = a.enabled && experts > 0 ? in.last_length() / experts : 0;
    const uint32_t* mask_of = in.optional_indices("maskOf", a.tokens);
    if (!mask_of) return nullptr;
    auto out = std::make_shared<std::vector<const uint8_t*>>();
    for (size_t token = 0; token < a.tokens; token++) {
        const uint32_t mask = mask_of[token];
        if (mask != UINT32_MAX && mask >= masks) {
            in.refuse(format("maskOf: token %zu names mask %u of %zu", token, mask, masks));
            break;
        }
        out->push_back(mask == UINT32_MAX ? nullptr : a.enabled + mask * experts);
    }
    return out;
}

/** [scale, bias?, biasExponent, selectionBias?, groups.count?, groups.used?, groups.score] of a route */
void read_route_extras(KernelArgs& in, RouteArgs& a) {
    const size_t experts = a.router.experts;
    a.scale = static_cast<float>(in.number("scale", -3e38, 3e38));
    a.bias = in.optional_ids("bias", experts);
    a.bias_exponent = static_cast<int>(in.number("biasExponent", -200, 200));
    if (in.ok() && a.bias && !within_24_bits(a.bias, experts)) in.refuse("bias: a number has more than 24 bits; packRouter makes them");
    a.selection_bias = in.optional_int64s("selectionBias", experts);
    for (size_t e = 0; in.ok() && a.selection_bias && e < experts; e++) {
        if (a.selection_bias[e] > kMostSelectionBias || a.selection_bias[e] < -kMostSelectionBias) in.refuse("selectionBias: a number is beyond 2^61; packSelectionBias makes them");
    }
    a.groups.count = static_cast<uint32_t>(in.optional_size("groups.count", 1, kMaxExperts));
    a.groups.used = static_cast<uint32_t>(in.optional_size("groups.used", 1, kMaxExperts));
    a.groups.score = in.choice("groups.score", {"max", "top2"}) == 0 ? GroupScore::Max : GroupScore::Top2;
}

// [states, router, exponent, experts, k, form, normalise, layer, seed, positions, enabled?, maskOf?, extras…, hser… of that form, ids, weights, scores?]
KernelWork read_route(KernelArgs& in, bool naive) {
    RouteArgs a = {};
    a.states = in.floats("states", 0);
    const size_t states = in.last_length();
    a.router.weights = in.int32s("router", 0);
    const size_t router = in.last_length();
    a.router.exponent = static_cast<int>(in.number("routerExponent", -200, 200));
    a.router.experts = in.size("experts", 1, kMaxExperts);
    a.router.width = in.parts("router", router, a.router.experts);
    if (a.router.width > kMaxRouterWidth || (in.ok() && a.router.width == 0)) in.refuse(format("router: the width is %zu; 1 to %zu are possible", a.router.width, kMaxRouterWidth));
    a.k = in.size("k", 1, kMaxExperts);
    constexpr RouteForm forms[] = {RouteForm::SoftmaxTopk, RouteForm::TopkSoftmax, RouteForm::Sigmoid, RouteForm::Hser};
    a.form = forms[in.choice("form", {"softmax_topk", "topk_softmax", "sigmoid", "hser"})];
    a.normalise = in.flag("normalise");
    a.layer = static_cast<uint32_t>(in.size("layer", 0, UINT32_MAX));
    const uint32_t* seed = in.indices("seed", 4);
    if (seed) memcpy(a.seed, seed, sizeof a.seed);
    a.positions = in.indices("positions", 0);
    a.tokens = in.last_length();
    const std::shared_ptr<std::vector<const uint8_t*>> masks = read_masks(in, a);
    a.masks = masks ? masks->data() : nullptr;
    read_route_extras(in, a);
    const std::shared_ptr<HserRouting> hser = a.form == RouteForm::Hser ? read_hser(in, a.router.width) : nullptr;
    a.hser = hser.get();
    const size_t rows = route_rows(a);
    a.ids = in.out_int32s("ids", product(a.tokens, a.k));
    a.weights = in.out_floats("weights", product(a.tokens, a.k));
    a.scores = in.optional_out_int64s("scores", product(a.tokens, rows));
    in.require("states", states, product(a.tokens, a.router.width));
    if (in.ok() && !within_24_bits(a.router.weights, router)) in.refuse("router: a number has more than 24 bits; packRouter makes them");
    return {[checked = a, rows, naive, hser, masks](const Context& context, KernelScratch& scratch) -> Status {
                RouteArgs a = checked;
                const size_t width = a.router.width;
                TMOE_RETURN_IF_ERROR(check_finite("route", a.states, a.tokens, width));
                TMOE_RETURN_IF_ERROR(scratch.first.reserve(product(a.tokens, width, sizeof(int32_t))));
                TMOE_RETURN_IF_ERROR(scratch.second.reserve(product(a.tokens, rows, sizeof(float))));
                if (!a.scores) TMOE_RETURN_IF_ERROR(scratch.third.reserve(product(a.tokens, rows, sizeof(int64_t))));
                a.states24 = scratch.first.as<int32_t>();
                a.probabilities = scratch.second.as<float>();
                if (!a.scores) a.scores = scratch.third.as<int64_t>();
                TMOE_RETURN_IF_ERROR(naive ? route_ref(a) : scratch.device ? scratch.device->route(a) : route(context, a));
                return check_finite("route", a.weights, a.tokens, a.k);  // logits beyond the float range
            },
            nullptr};
}

// [ids, k, experts, offsets, slots, rows]
KernelWork read_dispatch(KernelArgs& in, bool naive) {
    DispatchArgs a = {};
    a.ids = in.ids("ids", 0);
    const size_t slots = in.last_length();
    a.k = in.size("k", 1, kMostChosen);
    a.experts = in.size("experts", 1, kMaxExperts);
    a.tokens = in.parts("ids", slots, a.k);
    a.offsets = in.out_uint32s("offsets", a.experts + 1);
    a.slots = in.out_uint32s("slots", slots);
    a.rows = in.out_uint32s("rows", slots);
    return {[=](const Context&, KernelScratch& scratch) {
                if (naive) return dispatch_ref(a);
                return scratch.device ? scratch.device->dispatch(a) : dispatch(a);
            },
            nullptr};
}

// [x, k, offsets, slots, gate…, up…, down…, out, activation, gate's biases, up's, down's], a matrix being type, rows, columns, data
KernelWork read_expert_matmul(KernelArgs& in, bool naive) {
    const float* x = in.floats("x", 0);
    const size_t values = in.last_length(), k = in.size("k", 1, kMostChosen);
    const uint32_t* offsets = in.indices("offsets", 1);
    const size_t experts = in.last_length() > 0 ? in.last_length() - 1 : 0;
    const uint32_t* slots = in.indices("slots", 0);
    const size_t rows = in.last_length(), tokens = in.parts("slots", rows, k);
    MatrixArg gate = read_matrix(in, "gate", experts, !naive), up = read_matrix(in, "up", experts, !naive), down = read_matrix(in, "down", experts, !naive);
    const size_t width = gate.columns, hidden = gate.rows;
    if (up.rows != hidden || up.columns != width) in.refuse("up: its size is not that of gate");
    if (down.rows != width || down.columns != hidden) in.refuse("down: its size is not that of gate transposed");
    in.require("x", values, product(tokens, width));
    float* out = in.out_floats("out", product(rows, width));
    const ExpertActivation activation = in.choice("activation", {"silu", "clamped_swiglu"}) == 0 ? ExpertActivation::Silu : ExpertActivation::ClampedSwiglu;
    gate.bias = in.optional_floats("biases.gate", product(experts, hidden));
    up.bias = in.optional_floats("biases.up", product(experts, hidden));
    down.bias = in.optional_floats("biases.down", product(experts, width));
    if (naive) {
        return {[=](const Context&, KernelScratch&) {
                    return expert_matmul_ref({x, tokens, width, k, experts, gate.raw(), up.raw(), down.raw(), offsets, slots, out, activation});
                },
                nullptr};
    }
    return {[=](const Context& context, KernelScratch& scratch) -> Status {
                const ExpertMatmulArgs a = {x, tokens, width, k, experts, gate.packed(), up.packed(), down.packed(), offsets, slots, out, activation};
                if (scratch.device) return scratch.device->expert_matmul(a);
                RowFlags bad;
                TMOE_RETURN_IF_ERROR(bad.allocate(tokens));
                TMOE_RETURN_IF_ERROR(expert_matmul(context, a, scratch.experts, bad.flags()));
                return bad.check("expertMatmul");
            },
            nullptr};
}

// [values, ids, weights, rows, k, experts, width, add, out]
KernelWork read_combine(KernelArgs& in, bool naive) {
    CombineArgs a = {};
    a.values = in.floats("values", 0);
    const size_t values = in.last_length();
    a.ids = in.ids("ids", 0);
    const size_t slots = in.last_length();
    a.weights = in.floats("weights", slots);
    a.rows = in.indices("rows", slots);
    a.k = in.size("k", 1, kMostChosen);
    a.experts = in.size("experts", 1, kMaxExperts);
    a.width = in.size("width", 0, kMostSize);
    a.add = in.flag("add");
    a.tokens = in.parts("ids", slots, a.k);
    in.require("values", values, product(slots, a.width));
    a.out = in.out_floats("out", product(a.tokens, a.width));
    return {[=](const Context& context, KernelScratch& scratch) {
                if (naive) return combine_ref(a);
                return scratch.device ? scratch.device->combine(a) : combine(context, a);
            },
            nullptr};
}

// pack: [x, width, k, offsets, slots, ranks, out, rankRows]; unpack: [packed, width, k, offsets, slots, out]
KernelWork read_all_to_all(KernelArgs& in, bool naive, bool packing) {
    AllToAllArgs a = {};
    const char* source = packing ? "x" : "packed";
    a.from = in.floats(source, 0);
    const size_t from = in.last_length();
    a.width = in.size("width", 0, kMostSize);
    a.k = in.size("k", 1, kMostChosen);
    a.offsets = in.indices("offsets", 1);
    a.experts = in.last_length() > 0 ? in.last_length() - 1 : 0;
    a.slots = in.indices("slots", 0);
    a.rows = in.last_length();
    a.tokens = in.parts("slots", a.rows, a.k);
    a.ranks = packing ? in.size("ranks", 1, kMostSize) : 1;
    a.to = in.out_floats("out", product(a.rows, a.width));
    if (packing) a.rank_rows = in.out_uint32s("rankRows", a.ranks);
    in.require(source, from, product(packing ? a.tokens : a.rows, a.width));
    return {[=](const Context&, KernelScratch& scratch) {
                if (naive) return packing ? all_to_all_pack_ref(a) : all_to_all_unpack_ref(a);
                if (scratch.device) return packing ? scratch.device->all_to_all_pack(a) : scratch.device->all_to_all_unpack(a);
                return packing ? all_to_all_pack(a) : all_to_all_unpack(a);
            },
            nullptr};
}
KernelWork read_all_to_all_pack(KernelArgs& in, bool naive) { return read_all_to_all(in, naive, true); }
KernelWork read_all_to_all_unpack(KernelArgs& in, bool naive) { return read_all_to_all(in, naive, false); }

constexpr KernelEntry kEntries[] = {
    {"route", read_route},
    {"dispatch", read_dispatch},
    {"expertMatmul", read_expert_matmul},
    {"combine", read_combine},
    {"allToAllPack", read_all_to_all_pack},
    {"allToAllUnpack", read_all_to_all_unpack},
    {"pack", read_pack},
    {"packRouter", read_pack_router},
    {"packSelectionBias", read_pack_selection_bias},
};

}  // namespace

ExpertStack MatrixArg::packed() const { return {{type, rows, columns, data, biases()}, packed_bytes(type, rows, columns)}; }

MatrixArg read_matrix(KernelArgs& in, const char* name, size_t count, bool packed) {
    MatrixArg out = {};
    out.type = in.dtype((std::string(name) + ".type").c_str());
    out.rows = in.size((std::string(name) + ".rows").c_str(), 1, kMostSize);
    out.columns = in.size((std::string(name) + ".columns").c_str(), 1, kMostSize);
    in.parts((std::string(name) + ".columns").c_str(), out.columns, dtype_info(out.type).block);
    if (!in.ok()) return out;
    const size_t each = packed ? packed_bytes(out.type, out.rows, out.columns) : out.rows * row_bytes(out.type, out.columns);
    out.data = in.aligned_bytes((std::string(name) + ".data").c_str(), product(count, each));
    return out;
}

Status RowFlags::allocate(size_t rows) {
    flags_.reset(new (std::nothrow) std::atomic<uint8_t>[rows + 1]());
    rows_ = rows;
    return flags_ ? Status() : Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("no memory for the flags of %zu rows", rows));
}

Status RowFlags::check(const char* op) const {
    for (size_t row = 0; row < rows_; row++)
        if (flags_[row].load(std::memory_order_relaxed)) return not_finite(op, row);
    return {};
}

Status check_finite(const char* op, const float* x, size_t rows, size_t width) {
    for (size_t i = 0; i < rows * width; i++)
        if (!std::isfinite(x[i])) return not_finite(op, i / width);
    return {};
}

size_t moe_kernels(const KernelEntry*& out) {
    out = kEntries;
    return sizeof kEntries / sizeof kEntries[0];
}

}  // namespace tmoe
