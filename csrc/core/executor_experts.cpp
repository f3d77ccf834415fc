// The part of a step that is a mixture of experts: routes (masked, forced or captured), and the experts that they name.
#include <algorithm>
#include <cstring>

#include "core/executor.h"
#include "core/prefetcher.h"
#include "core/router_copies.h"
#include "cpu/dispatch.h"
#include "cpu/route_groups.h"
#include "cpu/route_hser.h"

namespace tmoe {

/** ROUTING_INVALID_EXPERT {token, slot, expertId, layer} where a forced route names no expert, or one twice. `token` counts the item's own. */
Status Executor::check_forced(size_t index) const {
    const StepItem& item = items_[index];
    const RoutingShape& shape = model_.routing_;
    for (size_t choice = 0; choice < item.count * shape.choices(); choice++) {
        const size_t slot = choice % shape.k;
        const int32_t* route = item.forced_ids + choice - slot;
        bool valid = route[slot] >= 0 && static_cast<size_t>(route[slot]) < shape.experts;
        for (size_t other = 0; other < slot; other++) valid = valid && route[other] != route[slot];
        if (valid) continue;
        const size_t token = choice / shape.choices(), layer = choice % shape.choices() / shape.k;
        return Status(StatusCode::ROUTING_INVALID_EXPERT,
                      format("the forced route of token %zu names expert %d at choice %zu of layer %zu; valid are 0 to %zu, each once", token, route[slot], slot, layer, shape.experts - 1))
            .with("token", static_cast<double>(token))
            .with("slot", static_cast<double>(slot))
            .with("expertId", route[slot])
            .with("layer", static_cast<double>(layer));
    }
    return {};
}

void Model::describe_route(const PlanOp& op, RouteArgs& args, HserRouting& hser) const {
    const auto view = [this](uint32_t tensor) {
        const Weight& w = weights_[tensor];
        return RouterView{w.data.as<int32_t>(), w.exponent, w.rows, w.columns};
    };
    args.router = view(op.weight);
    args.k = op.k;
    args.form = op.form;
    args.normalise = op.normalise;
    args.scale = op.weights_scale;
    args.groups = op.groups;
    if (op.bias != kNoTensor) {
        args.bias = weights_[op.bias].data.as<int32_t>();
        args.bias_exponent = weights_[op.bias].exponent;
    }
    if (op.selection_bias != kNoTensor) args.selection_bias = weights_[op.selection_bias].data.as<int64_t>();
    args.layer = op.layer;
    memcpy(args.seed, plan_.routing_seed, sizeof args.seed);
    args.enabled = nullptr;
    if (op.form != RouteForm::Hser) return;
    hser.tiers = view(op.hser.tier_router);
    hser.groups = view(op.hser.group_router);
    hser.tier_groups = op.hser.tier_groups.data();
    hser.group_experts = op.hser.group_experts.data();
    hser.k_tier = op.hser.k_tier;
    hser.k_group = op.hser.k_group;
    hser.k_expert = op.hser.k_expert;
    hser.bound = op.hser.bound;
    args.hser = &hser;
}

Status Model::check_enabled(const uint8_t* mask) const {
    size_t layer = 0;
    for (const PlanOp& op : plan_.ops) {
        if (op.kind != OpKind::Route) continue;
        const uint8_t* row = mask + layer * routing_.experts;
        const size_t enabled = routing_.experts - static_cast<size_t>(std::count(row, row + routing_.experts, uint8_t{0}));
        std::string levels;
        if (op.form == RouteForm::Hser) {
            RouteArgs args;
            HserRouting hser;
            describe_route(op, args, hser);
            levels = check_hser_mask(hser, row).message();
        } else if (enabled >= routing_.k) {
            levels = check_groups_mask(op.groups, routing_.experts, op.k, row).message();
        }
        if (enabled < routing_.k || !levels.empty()) {
            return Status(StatusCode::ROUTING_TOO_FEW_EXPERTS, format("%zu of %zu experts are enabled in layer %zu, a token uses %zu%s%s", enabled, routing_.experts, layer, routing_.k,
                                                                      levels.empty() ? "" : "; ", levels.c_str()))
                .with("layer", static_cast<double>(layer))
                .with("enabled", static_cast<double>(enabled))
                .with("k", static_cast<double>(routing_.k));
        }
        layer++;
    }
    return {};
}

/** A route of this step's tokens from `states`; its results go to the buffers of the arena, or of the prefetcher. */
template <class Buffers> void Executor::fill_route(const PlanOp& op, size_t layer, const float* states, Buffers& to, RouteArgs& args, HserRouting& hser) {
    model_.describe_route(op, args, hser);
    args.states = states;
    args.tokens = tokens_;
    args.positions = positions_.data();
    args.ids = to.ids.template as<int32_t>();
    args.weights = to.weights.template as<float>();
    args.scores = to.scores.template as<int64_t>();
    args.states24 = to.states24.template as<int32_t>();
    args.probabilities = to.probabilities.template as<float>();
    use_masks(args, layer);
}

Status Executor::route(const PlanOp& op) {
    routed_ = &op;
    routed_layer_ = routed_layers_++;
    RouteArgs args;
    HserRouting hser;
    fill_route(op, routed_layer_, arena_.buffer(op.in), arena_, args, hser);
    if (!all_forced_) TMOE_RETURN_IF_ERROR(tmoe::route(context_, args));
    if (any_forced_) force_routes();
    if (any_captured_) capture_routes();
    return {};
}

/** Each token's mask in a layer. */
void Executor::use_masks(RouteArgs& args, size_t layer) {
    if (!any_masked_) return;
    masks_.clear();
    for (const StepItem& item : items_) masks_.insert(masks_.end(), item.count, item.enabled ? item.enabled + layer * model_.routing_.experts : nullptr);
    args.masks = masks_.data();
}

/** Replay: the choices of items that bring their own take the place of what was routed. */
void Executor::force_routes() {
    const size_t k = routed_->k, choices = model_.routing_.choices();
    for (size_t i = 0; i < items_.size(); i++) {
        if (!items_[i].forced_ids) continue;
        for (size_t t = 0; t < items_[i].count; t++) {
            const size_t from = t * choices + routed_layer_ * k, to = (first_row_[i] + t) * k;
            memcpy(arena_.ids.as<int32_t>() + to, items_[i].forced_ids + from, k * sizeof(int32_t));
            memcpy(arena_.weights.as<float>() + to, items_[i].forced_weights + from, k * sizeof(float));
        }
    }
}

void Executor::capture_routes() {
    const size_t k = routed_->k;
    for (size_t i = 0; i < items_.size(); i++) {
        const Sequence& sequence = *items_[i].sequence;
        if (sequence.choices == 0) continue;
        for (size_t t = 0; t < items_[i].count; t++) {
            const size_t row = first_row_[i] + t, to = routed_layer_ * k;
            memcpy(sequence.route_ids(positions_[row]) + to, arena_.ids.as<int32_t>() + row * k, k * sizeof(int32_t));
            memcpy(sequence.route_weights(positions_[row]) + to, arena_.weights.as<float>() + row * k, k * sizeof(float));
        }
    }
}

/**
 * Where items of the step use other versions than those in the experts' usual places, each such version becomes an expert of its own behind
 * the `experts`: its rows are its own, and no bit of another row changes. Returns how many there are then.
 */
size_t Executor::split_versions(size_t experts) {
    const size_t held = model_.versions_.layer(routed_layer_).size(), k = routed_->k;
    if (held == 0) return experts;
    const int32_t* ids = arena_.ids.as<int32_t>();
    split_ids_.assign(ids, ids + tokens_ * k);
    bool any = false;
    for (size_t i = 0; i < items_.size(); i++) {
        for (size_t at = first_row_[i] * k; at < (first_row_[i] + items_[i].count) * k; at++) {
            const int64_t version = model_.versions_.find(routed_layer_, static_cast<uint32_t>(ids[at]), items_[i].epoch);
            if (version < 0) continue;
            split_ids_[at] = static_cast<int32_t>(experts + static_cast<size_t>(version));
            any = true;
        }
    }
    if (!any) return experts;
    split_offsets_.resize(experts + held + 1);
    return experts + held;
}

Status Executor::experts(const PlanOp& op, size_t index) {
    const Weight &gate = model_.weights_[op.gate], &up = model_.weights_[op.up], &down = model_.weights_[op.down];
    const size_t k = routed_->k, width = plan_.buffer_widths[op.in], all = split_versions(gate.experts);
    const bool split = all > gate.experts;
    const DispatchArgs d = {split ? split_ids_.data() : arena_.ids.as<int32_t>(), tokens_, k, all, split ? split_offsets_.data() : arena_.offsets.as<uint32_t>(),
                            arena_.slots.as<uint32_t>(), arena_.rows.as<uint32_t>()};
    TMOE_RETURN_IF_ERROR(dispatch(d));
    const size_t first = routed_layer_ * model_.routing_.experts;
    for (size_t e = 0; e < all; e++) {
        const size_t expert = first + (e < gate.experts ? e : model_.versions_.layer(routed_layer_)[e - gate.experts]->expert);
        if (expert < use_.size()) use_[expert] += d.offsets[e + 1] - d.offsets[e];
    }
    ExpertMatmulArgs e = {arena_.buffer(op.in), tokens_, width, k, all, {}, {}, {}, d.offsets, d.slots, arena_.values.as<float>(), op.activation};
    const std::function<void()> expect_next = [this, index] { expect_from(index + 1); };
    e.before_down = &expect_next;
    TMOE_RETURN_IF_ERROR(model_.store_ ? stored_experts(op, e, gate, up, down) : resident_experts(op, e, gate, up, down));
    result_.expert_rows = tokens_ * k;
    const CombineArgs c = {e.out, arena_.ids.as<int32_t>(), arena_.weights.as<float>(), d.rows, tokens_, k, width, gate.experts, true, arena_.buffer(op.out)};
    TMOE_RETURN_IF_ERROR(combine(context_, c));
    note_layer(static_cast<int32_t>(op.layer));
    return {};
}

/** Biases stay in memory, [experts][rows] of each layer: a version of an expert has those of the expert. */
void Executor::add_biases(const PlanOp& op, ExpertMatmulArgs& e) {
    e.gate.shape.bias = vector_of(op.gate_bias);
    e.up.shape.bias = vector_of(op.up_bias);
    e.down.shape.bias = vector_of(op.down_bias);
    const size_t own = model_.routing_.experts;
    if (op.gate_bias == kNoTensor || e.experts == own) return;
    bias_of_.clear();
    for (uint32_t expert = 0; expert < e.experts; expert++) bias_of_.push_back(expert < own ? expert : model_.versions_.layer(routed_layer_)[expert - own]->expert);
    e.gate.bias_of = e.up.bias_of = e.down.bias_of = bias_of_.data();
}

/** Experts that all stay in memory, with the versions beside them. */
Status Executor::resident_experts(const PlanOp& op, ExpertMatmulArgs& e, const Weight& gate, const Weight& up, const Weight& down) {
    if (e.experts == gate.experts) {
        const auto stack = [](const Weight& w) { return ExpertStack{w.matrix(), w.expert_bytes}; };
        e.gate = stack(gate);
        e.up = stack(up);
        e.down = stack(down);
        add_biases(op, e);
        return expert_matmul(context_, e, arena_.experts, flags());
    }
    const ExpertLayout layout = model_.layout_of(routed_layer_);
    std::vector<const uint8_t*> places[3];
    const auto table = [&](const Weight& w, const ExpertPart& part, std::vector<const uint8_t*>& to) {
        for (size_t expert = 0; expert < w.experts; expert++) to.push_back(w.data.data() + expert * w.expert_bytes);
        for (const auto& version : model_.versions_.layer(routed_layer_)) to.push_back(version->blob + part.offset);
        return ExpertStack{w.matrix(), 0, to.data()};
    };
    e.gate = table(gate, layout.gate, places[0]);
    e.up = table(up, layout.up, places[1]);
    e.down = table(down, layout.down, places[2]);
    add_biases(op, e);
    return expert_matmul(context_, e, arena_.experts, flags());
}

/** Experts of a store: computed as they arrive. */
Status Executor::stored_experts(const PlanOp& op, ExpertMatmulArgs& e, const Weight& gate, const Weight& up, const Weight& down) {
    ExpertStore& store = *model_.store_;
    const auto layer = static_cast<uint32_t>(routed_layer_);
    const ExpertLayout& layout = store.layout(layer);
    std::vector<const uint8_t*>& blobs = arena_.blobs;
    blobs.resize(e.experts);
    const auto stack = [&](const Weight& w, const ExpertPart& part) { return ExpertStack{w.matrix(), part.offset, blobs.data()}; };
    e.gate = stack(gate, layout.gate);
    e.up = stack(up, layout.up);
    e.down = stack(down, layout.down);
    add_biases(op, e);

    wanted_.clear();
    part_.clear();
    for (size_t expert = 0; expert < e.experts; expert++) {
        if (e.offsets[expert] == e.offsets[expert + 1]) continue;
        (expert < gate.experts ? wanted_ : part_).push_back(static_cast<uint32_t>(expert));
    }
    model_.prefetcher_->observe(layer, wanted_, store);
    struct Use {  // releases the references whatever happens
        ExpertStore& store;
        ~Use() { store.end_layer(); }
    } use{store};
    TMOE_RETURN_IF_ERROR(store.begin_layer(layer, wanted_));
    if (model_.foreseeable_) read_ahead(routed_layer_, arena_.buffer(model_.routed_[routed_layer_].norm->in));
    TMOE_RETURN_IF_ERROR(begin_expert_matmul(context_, e, arena_.experts, flags()));
    if (!part_.empty()) {  // versions in memory of their own, while the others are being read
        for (uint32_t version : part_) blobs[version] = model_.versions_.layer(layer)[version - gate.experts]->blob;
        TMOE_RETURN_IF_ERROR(expert_matmul_part(context_, e, part_.data(), part_.size(), arena_.experts, flags()));
    }
    for (;;) {
        ready_.clear();
        backend_.pool.end_burst();  // nobody spins while reads are waited for: those who read need the cores
        const Status status = store.next(ready_, context_.cancel);
        backend_.pool.begin_burst();
        TMOE_RETURN_IF_ERROR(status);
        if (ready_.empty()) return {};
        part_.clear();
        for (const ReadyExpert& expert : ready_) {
            blobs[expert.expert] = expert.blob;
            part_.push_back(expert.expert);
        }
        TMOE_RETURN_IF_ERROR(expert_matmul_part(context_, e, part_.data(), part_.size(), arena_.experts, flags()));
    }
}

/** Predicts what the next layers will want, and has the absent ones read while this one computes. No bit depends on it. */
void Executor::read_ahead(size_t seen, const float* states) {
    Prefetcher& prefetcher = *model_.prefetcher_;
    ExpertStore& store = *model_.store_;
    if (!prefetcher.on() || store.holds_all() || !model_.foreseeable_) return;
    prefetcher.see(seen, states);
    const size_t next = seen == Prefetcher::kEmbeddings ? 0 : seen + 1;
    size_t leads[Prefetcher::kMostLead], count = 0;
    for (size_t lead = 1; lead <= Prefetcher::kMostLead && next + lead - 1 < model_.routed_.size(); lead++) {
        if (prefetcher.wanted(next + lead - 1)) leads[count++] = lead;
    }
    RouterCopies& copies = *model_.copies_;
    bool found[Prefetcher::kMostLead] = {};
    const bool done = context_.pool.for_each(count, context_.cancel, [&](size_t i, size_t) {
        const size_t layer = next + leads[i] - 1;
        prefetcher.foresee(leads[i], copies.states(i));
        found[i] = norm_foreseen(layer, copies.states(i));
        if (found[i] && copies.has(layer)) copies.score(context_.kernels, layer, i, tokens_);
    });
    for (size_t i = 0; i < count && done && found[i]; i++) {
        const size_t layer = next + leads[i] - 1;
        RouteArgs args;
        HserRouting hser;
        fill_route(*model_.routed_[layer].route, layer, copies.states(i), prefetcher, args, hser);
        if (!copies.has(layer) && !tmoe::route(context_, args).ok()) return;  // cancelled: the next operation says so
        ahead_.clear();
        prefetcher.predict(layer, leads[i], {copies.has(layer) ? copies.scores(i) : nullptr, args.ids, args.masks}, store, ahead_);
        if (!ahead_.empty()) store.prefetch(static_cast<uint32_t>(layer), ahead_);
    }
}

/** The norm before a layer's router, in place. False where a state is not finite. */
bool Executor::norm_foreseen(size_t layer, float* states) const {
    const PlanOp& norm = *model_.routed_[layer].norm;
    const Weight& weight = model_.weights_[norm.weight];
    for (size_t t = 0; t < tokens_; t++) {
        float* state = states + t * weight.columns;
        if (!context_.kernels.rms_norm(state, weight.data.as<float>(), weight.columns, norm.epsilon, state)) return false;
    }
    return true;
}

}  // namespace tmoe
