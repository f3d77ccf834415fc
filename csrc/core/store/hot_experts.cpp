#include "core/store/hot_experts.h"

#include <algorithm>
#include <new>

namespace tmoe {

namespace {

constexpr uint8_t kPinned = 1, kDemoted = 2;   // as Placement of core/model.h
constexpr size_t kLeastFree = 2;               // slots beside the pinned ones: one in use, one being filled

}  // namespace

Status HotExperts::create(HotOptions options, const std::shared_ptr<const ExpertStore>& below, std::unique_ptr<HotExperts>& out) {
    std::unique_ptr<HotExperts> made(new (std::nothrow) HotExperts(std::move(options), below));
    if (!made) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate the slots' table");
    HotOptions& o = made->options_;
    const size_t entries = o.layers * o.experts;
    o.slots = std::min(o.slots, entries);
    TMOE_RETURN_IF_ERROR(made->check_slots(o.slots, 0));
    CacheOptions cache;
    cache.layers = o.layers;
    cache.experts = o.experts;
    cache.slots = o.slots;
    cache.policy = o.policy;
    cache.seed = o.seed;
    TMOE_RETURN_IF_ERROR(made->control_.start(cache, o.trace));
    made->placement_.assign(entries, 0);
    made->marked_.assign(o.experts, 0);
    out = std::move(made);
    return {};
}

Status HotExperts::check_slots(size_t slots, size_t pinned) const {
    const size_t least = std::min(options_.layers * options_.experts, pinned + kLeastFree), bytes = options_.slot_bytes;
    if (slots >= least) return {};
    return Status(StatusCode::RESOURCE_BUDGET_TOO_SMALL, format("%zu slots of %zu bytes for experts are fewer than the least, %zu", slots, bytes, least))
        .with("required", static_cast<double>(least) * static_cast<double>(bytes))
        .with("available", static_cast<double>(slots) * static_cast<double>(bytes))
        .with("slotBytes", static_cast<double>(bytes));
}

/** Experts are wanted and no part holds a slot. */
Status HotExperts::check_progress() const {
    if (control_.parts() > 0 || control_.left() == 0) return {};
    return check_slots(control_.cache().slots(), control_.cache().slots());
}

bool HotExperts::in_reach(uint32_t entry) const {
    const uint32_t layer = control_.layer_of(entry), expert = control_.expert_of(entry);
    const std::shared_ptr<const ExpertStore> below = below_.lock();
    if (control_.cache().slot_of(entry) >= 0 || !below || below->local(layer, expert)) return true;
    const Residency state = below->residency(layer, expert);
    return state == Residency::Resident || state == Residency::Loading;
}

void HotExperts::begin_step(const StepShape& shape) {
    control_.begin_step(shape);
    step_wanted_.clear();
}

Status HotExperts::begin_layer(uint32_t layer, const int32_t* ids, size_t count) {
    if (layer >= options_.layers) return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, format("there is no layer %u", layer));
    std::fill(marked_.begin(), marked_.end(), uint8_t{0});
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || static_cast<size_t>(ids[i]) >= options_.experts) {
            return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, format("there is no expert %d in layer %u", ids[i], layer));
        }
        marked_[static_cast<size_t>(ids[i])] = 1;
    }
    wanted_.clear();
    missing_.clear();
    for (uint32_t expert = 0; expert < options_.experts; expert++) {
        if (!marked_[expert]) continue;
        wanted_.push_back(control_.entry_of(layer, expert));
        if (!in_reach(wanted_.back())) missing_.push_back(wanted_.back());
    }
    step_wanted_.insert(step_wanted_.end(), wanted_.begin(), wanted_.end());
    TMOE_RETURN_IF_ERROR(archived_experts(layer, missing_, options_.experts, step_wanted_));
    control_.begin_layer(layer, wanted_);
    return check_progress();
}

Status HotExperts::advance(bool& added) {
    added = control_.parts() > 0 && control_.advance();
    return check_progress();
}

void HotExperts::prefetch(uint32_t layer, const std::vector<uint32_t>& experts, std::vector<WaveItem>& admitted) {
    std::vector<uint32_t> entries;
    for (uint32_t expert : experts) {
        if (layer < options_.layers && expert < options_.experts && in_reach(control_.entry_of(layer, expert))) entries.push_back(control_.entry_of(layer, expert));
    }
    control_.prefetch(entries, admitted);
}

void HotExperts::fill(std::vector<WaveItem>& admitted) {
    control_.prefetch(control_.fill_order([this](uint32_t entry) { return in_reach(entry); }), admitted);
}

Status HotExperts::place(const uint8_t* placement, std::vector<WaveItem>& admitted) {
    std::vector<uint32_t> promoted;
    for (uint32_t entry = 0; entry < placement_.size(); entry++) {
        const uint8_t was = placement_[entry], now = placement[entry];
        if (was != now && (was == kDemoted || now == kPinned)) promoted.push_back(entry);
        if (was == kPinned && now != was) control_.pin(entry, false);  // what is no longer pinned makes room before anything new is
        if ((was == kDemoted) != (now == kDemoted)) control_.demote(entry, now == kDemoted);
        if (now != kPinned) placement_[entry] = now;
    }
    for (uint32_t entry = 0; entry < placement_.size(); entry++) {
        if (placement[entry] != kPinned || placement_[entry] == kPinned) continue;
        TMOE_RETURN_IF_ERROR(check_slots(control_.cache().slots(), control_.pinned() + 1));
        control_.pin(entry, true);
        placement_[entry] = kPinned;
    }
    for (uint32_t layer = 0; layer < options_.layers; layer++) {
        std::vector<uint32_t> experts;
        for (uint32_t entry : promoted) {
            if (control_.layer_of(entry) == layer) experts.push_back(control_.expert_of(entry));
        }
        if (!experts.empty()) prefetch(layer, experts, admitted);
    }
    return {};
}

Status HotExperts::resize(size_t slots, std::vector<uint32_t>& evicted) {
    slots = std::min(slots, options_.layers * options_.experts);
    TMOE_RETURN_IF_ERROR(check_slots(slots, control_.pinned()));
    control_.resize(slots, evicted);
    return {};
}

}  // namespace tmoe
