#include <map>

#include "cuda/calls.h"
#include "cuda/expert_matmul.h"
#include "cuda/moe.h"
#include "quant/repack.h"

namespace tmoe {
namespace cuda {

namespace {

/** A stack whose matrices stand one after another, on the device. */
ExpertStack upload(Workspace& w, const ExpertStack& from, size_t experts) {
    ExpertStack to = from;
    const size_t bytes = experts == 0 ? 0 : (experts - 1) * from.stride + packed_bytes(from.shape.type, from.shape.rows, from.shape.columns);
    to.shape.packed = w.in(from.shape.packed, bytes);
    if (from.shape.bias) to.shape.bias = w.in(from.shape.bias, experts * from.shape.rows);
    return to;
}

RouterView upload(Workspace& w, const RouterView& from) {
    RouterView to = from;
    to.weights = w.in(from.weights, from.experts * from.width);
    return to;
}

}  // namespace

Status expert_matmul(Workspace& w, const ExpertMatmulArgs& a, MatmulForm form) {
    const size_t rows = a.tokens * a.k, hidden = a.gate.shape.rows;
    TMOE_RETURN_IF_ERROR(check_dispatched(a.offsets, a.experts, a.slots, rows));
    ExpertCall c = {};
    c.x = w.in(a.x, a.tokens * a.width);
    c.tokens = a.tokens;
    c.width = a.width;
    c.k = a.k;
    c.experts = a.experts;
    c.gate = upload(w, a.gate, a.experts);
    c.up = upload(w, a.up, a.experts);
    c.down = upload(w, a.down, a.experts);
    c.offsets = w.in(a.offsets, a.experts + 1);
    c.slots = w.in(a.slots, rows);
    c.out = w.out(a.out, rows * a.width);
    c.marks = {w.marks(a.tokens), 0};
    c.activation = a.activation;
    ExpertMemory memory;
    Status launched = w.status().ok() ? memory.reserve(a.tokens, a.k, a.width, hidden) : Status();
    if (w.status().ok() && launched.ok()) launched = expert_matmul(w.stream(), w.device(), c, memory, form);
    TMOE_RETURN_IF_ERROR(w.finish(std::move(launched)));
    return w.first_marked() < a.tokens ? not_finite("expertMatmul", w.first_marked()) : Status();
}

Status route(Workspace& w, const RouteArgs& a) {
    TMOE_RETURN_IF_ERROR(check_route(a));
    const size_t rows = route_rows(a), experts = a.router.experts;
    RouteArgs c = a;
    HserRouting h = {};
    c.states = w.in(a.states, a.tokens * a.router.width);
    c.router = upload(w, a.router);
    c.positions = w.in(a.positions, a.tokens);
    std::vector<const uint8_t*> masks;
    c.enabled = a.enabled ? w.in(a.enabled, experts) : nullptr;
    std::map<const uint8_t*, const uint8_t*> sent = {{nullptr, nullptr}};  // tokens share masks
    for (size_t t = 0; a.masks && t < a.tokens; t++) {
        const auto known = sent.find(a.masks[t]);
        masks.push_back(known != sent.end() ? known->second : w.in(a.masks[t], experts));
        sent.emplace(a.masks[t], masks.back());
    }
    c.masks = a.masks ? w.in(masks.data(), masks.size()) : nullptr;
    c.ids = w.out(a.ids, a.tokens * a.k);
    c.weights = w.out(a.weights, a.tokens * a.k);
    c.scores = w.out(a.scores, a.tokens * rows);
    c.states24 = w.room<int32_t>(a.tokens * a.router.width);
    c.probabilities = w.room<float>(a.tokens * rows);
    c.bias = a.bias ? w.in(a.bias, experts) : nullptr;
    c.selection_bias = a.selection_bias ? w.in(a.selection_bias, experts) : nullptr;
    c.ranks = a.ranks_by_scores() ? nullptr : w.room<int64_t>(a.tokens * rows);
    if (a.form == RouteForm::Hser) {
        h = *a.hser;
        h.tiers = upload(w, a.hser->tiers);
        h.groups = upload(w, a.hser->groups);
        h.tier_groups = w.in(a.hser->tier_groups, h.tiers.experts + 1);
        h.group_experts = w.in(a.hser->group_experts, h.groups.experts + 1);
    }
    return w.finish(w.status().ok() ? route(w.stream(), c, h) : Status());
}

Status dispatch(Workspace& w, const DispatchArgs& a) {
    TMOE_RETURN_IF_ERROR(check_dispatch_ids("dispatch", a.ids, a.tokens, a.k, a.experts));
    const size_t rows = a.tokens * a.k;
    const DispatchCall c = {{w.in(a.ids, rows), a.tokens, a.k, a.experts, w.out(a.offsets, a.experts + 1), w.out(a.slots, rows), w.out(a.rows, rows)}, w.room<uint32_t>(a.experts)};
    return w.finish(w.status().ok() ? dispatch(w.stream(), c) : Status());
}

Status combine(Workspace& w, const CombineArgs& a) {
    TMOE_RETURN_IF_ERROR(check_combine(a));
    const size_t rows = a.tokens * a.k;
    CombineArgs c = a;
    c.values = w.in(a.values, rows * a.width);
    c.ids = w.in(a.ids, rows);
    c.weights = w.in(a.weights, rows);
    c.rows = w.in(a.rows, rows);
    c.out = a.add ? w.in_out(a.out, a.tokens * a.width) : w.out(a.out, a.tokens * a.width);
    return w.finish(w.status().ok() ? combine(w.stream(), c) : Status());
}

Status all_to_all_pack(Workspace& w, const AllToAllArgs& a) {
    TMOE_RETURN_IF_ERROR(check_all_to_all("allToAllPack", a));
    count_rank_rows(a);
    AllToAllArgs c = a;
    c.slots = w.in(a.slots, a.rows);
    c.from = w.in(a.from, a.tokens * a.width);
    c.to = w.out(a.to, a.rows * a.width);
    return w.finish(w.status().ok() ? all_to_all_pack(w.stream(), c) : Status());
}

Status all_to_all_unpack(Workspace& w, const AllToAllArgs& a) {
    TMOE_RETURN_IF_ERROR(check_all_to_all("allToAllUnpack", a));
    AllToAllArgs c = a;
    c.slots = w.in(a.slots, a.rows);
    c.from = w.in(a.from, a.rows * a.width);
    c.to = w.out(a.to, a.rows * a.width);
    return w.finish(w.status().ok() ? all_to_all_unpack(w.stream(), c) : Status());
}

}  // namespace cuda
}  // namespace tmoe
