#include "core/store/hot_experts.h"

#include <algorithm>
#include <new>

namespace tmoe {

namespace {

constexpr auto kPinned = static_cast<uint8_t>(Placement::Pinned), kDemoted = static_cast<uint8_t>(Placement::Demoted);
constexpr size_t kLeastFree = 2;               // slots beside the pinned ones: one in use, one being filled
constexpr uint64_t kTrial = 8;                 // a layer where bringing ahead does not pay is looked at every so many steps
constexpr uint32_t kMostCounted = 128;         // guesses; then both counts are halved, so that they follow what changes

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
    made->odds_.resize(o.layers);
    made->guesses_.resize(o.layers);
    made->foresight_.resize(o.layers);
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

bool HotExperts::distinct(const int32_t* ids, size_t count, std::vector<uint32_t>& out) {
    std::fill(marked_.begin(), marked_.end(), uint8_t{0});
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || static_cast<size_t>(ids[i]) >= options_.experts) return false;
        marked_[static_cast<size_t>(ids[i])] = 1;
    }
    out.clear();
    for (uint32_t expert = 0; expert < options_.experts; expert++) {
        if (marked_[expert]) out.push_back(expert);
    }
    return true;
}

void HotExperts::begin_step(const StepShape& shape) {
    control_.begin_step(shape);
    step_wanted_.clear();
    step_++;
    for (Guess& guess : guesses_) guess.made = false;  // of a step that did not end
}

Status HotExperts::begin_layer(uint32_t layer, const int32_t* ids, size_t count) {
    if (layer >= options_.layers) return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, format("there is no layer %u", layer));
    if (!distinct(ids, count, found_)) return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, format("a route of layer %u names an expert that there is not", layer));
    wanted_.clear();
    missing_.clear();
    for (uint32_t expert : found_) {
        wanted_.push_back(control_.entry_of(layer, expert));
        if (!in_reach(wanted_.back())) missing_.push_back(wanted_.back());
    }
    step_wanted_.insert(step_wanted_.end(), wanted_.begin(), wanted_.end());
    TMOE_RETURN_IF_ERROR(archived_experts(layer, missing_, options_.experts, step_wanted_));
    learn(layer);
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

bool HotExperts::foresees(uint32_t layer) const {
    if (options_.ahead == HotOptions::Ahead::Off || layer >= options_.layers || control_.cache().used() == placement_.size()) return false;
    return brings_ahead(layer) || step_ % kTrial == 0;
}

void HotExperts::foresee(uint32_t layer, const int32_t* ids, size_t count, std::vector<WaveItem>& admitted) {
    if (!foresees(layer)) return;
    Guess& guess = guesses_[layer];
    if (!distinct(ids, count, guess.experts)) return;
    guess.made = true;
    guess.absent.clear();
    for (uint32_t expert : guess.experts) {
        if (control_.cache().slot_of(control_.entry_of(layer, expert)) < 0) guess.absent.push_back(expert);
    }
    if (!brings_ahead(layer)) return;
    const size_t before = admitted.size();
    prefetch(layer, guess.experts, admitted);
    foresight_[layer].asked += admitted.size() - before;
}

/** What was foretold for the layer, now that `found_` is what it wants. */
void HotExperts::learn(uint32_t layer) {
    Guess& guess = guesses_[layer];
    if (!guess.made) return;
    guess.made = false;
    Odds& odds = odds_[layer];
    for (uint32_t expert : guess.absent) {
        odds.used += std::binary_search(found_.begin(), found_.end(), expert);
        if (++odds.of < kMostCounted) continue;
        odds.used /= 2;
        odds.of /= 2;
    }
    Foresight& counts = foresight_[layer];
    counts.wanted += found_.size();
    for (uint32_t expert : found_) {
        counts.predicted += std::binary_search(guess.experts.begin(), guess.experts.end(), expert);
        counts.present += control_.cache().slot_of(control_.entry_of(layer, expert)) >= 0;
    }
}

void HotExperts::fill(std::vector<WaveItem>& admitted) {
    control_.prefetch(control_.fill_order(placement_, [this](uint32_t entry) { return in_reach(entry); }), admitted);
}

Status HotExperts::place(const uint8_t* placement, std::vector<WaveItem>& admitted) {
    std::vector<std::vector<uint32_t>> promoted(2 * options_.layers);  // per layer what is pinned, then per layer what is back
    for (uint32_t entry = 0; entry < placement_.size(); entry++) {
        const uint8_t was = placement_[entry], now = placement[entry];
        const size_t turn = control_.layer_of(entry) + (now == kPinned ? 0 : options_.layers);
        if (was != now && (was == kDemoted || now == kPinned)) promoted[turn].push_back(control_.expert_of(entry));
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
    for (size_t i = 0; i < promoted.size(); i++) {
        if (!promoted[i].empty()) prefetch(static_cast<uint32_t>(i % options_.layers), promoted[i], admitted);
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
