#include "core/prefetcher.h"

#include <algorithm>

namespace tmoe {

namespace {

constexpr uint64_t kTrial = 8;             // a layer where reading ahead does not pay is looked at every so many steps
constexpr double kMostForNothing = 0.08;   // of all bytes
constexpr double kMostCredit = 8;          // experts: what was saved long ago is not spent at once

}  // namespace

Prefetcher::Prefetcher(PrefetchMode mode, const RoutingShape& shape)
    : mode_(mode), shape_(shape), odds_(shape.layers * 2 * shape.k), guesses_(shape.layers), in_guess_(shape.mask_size()), made_(shape.layers), layers_(shape.layers) {}

Status Prefetcher::reserve(size_t width, size_t rows) {
    TMOE_RETURN_IF_ERROR(states.allocate(kMostTokens * width * sizeof(float)));
    TMOE_RETURN_IF_ERROR(states24.allocate(kMostTokens * width * sizeof(int32_t)));
    TMOE_RETURN_IF_ERROR(ids.allocate(kMostTokens * shape_.k * sizeof(int32_t)));
    TMOE_RETURN_IF_ERROR(weights.allocate(kMostTokens * shape_.k * sizeof(float)));
    TMOE_RETURN_IF_ERROR(scores.allocate(kMostTokens * rows * sizeof(int64_t)));
    return probabilities.allocate(kMostTokens * rows * sizeof(float));
}

uint64_t Prefetcher::bytes(const Plan& plan) {
    uint64_t most = 0;
    for (const PlanOp& op : plan.ops) {
        if (op.kind != OpKind::Route) continue;
        const uint64_t rows = plan.tensors[op.weight].shape[1] + op.hser.tier_groups.size() + op.hser.group_experts.size();
        most = std::max(most, 2 * uint64_t{plan.buffer_widths[op.in]} + 2 * uint64_t{op.k} + 3 * rows);
    }
    return most * kMostTokens * sizeof(float) + 6 * 64;  // six blocks, each rounded up
}

void Prefetcher::begin_step(size_t tokens, const StoreCounts& counts, size_t expert_bytes) {
    tokens_ = tokens;
    step_++;
    for (std::vector<Guess>& guesses : guesses_) guesses.clear();  // of a step that did not end
    std::fill(in_guess_.begin(), in_guess_.end(), uint8_t{0});
    std::fill(made_.begin(), made_.end(), uint8_t{0});
    // What was read ahead and has not been used yet counts as read for nothing until it is.
    const double all = static_cast<double>(counts.demand_bytes + counts.prefetch_bytes);
    const double unused = static_cast<double>(counts.prefetch_bytes) - static_cast<double>(counts.prefetch_used);
    const double earned = ((all - seen_all_) * kMostForNothing - (unused - seen_unused_)) / static_cast<double>(expert_bytes);
    credit_ = std::min(kMostCredit, credit_ + earned);
    allowance_ = credit_;
    seen_all_ = all;
    seen_unused_ = unused;
}

bool Prefetcher::pays(size_t layer) const {
    for (When when : {When::Early, When::Late}) {
        for (size_t rank = 0; rank < shape_.k; rank++) {
            if (pays(odds(layer, when, rank))) return true;
        }
    }
    return false;
}

bool Prefetcher::wanted(size_t layer) const {
    if (mode_ == PrefetchMode::Off || tokens_ == 0 || tokens_ > kMostTokens || layer >= shape_.layers) return false;
    return mode_ == PrefetchMode::On || step_ % kTrial == 0 || pays(layer);
}

void Prefetcher::predict(size_t layer, When when, const int32_t* predicted, const ExpertStore& store, std::vector<uint32_t>& ahead) {
    made_[layer] = 1;
    std::vector<Guess>& guesses = guesses_[layer];
    uint8_t* in_guess = in_guess_.data() + layer * shape_.experts;
    for (size_t rank = 0; rank < shape_.k; rank++) {
        for (size_t token = 0; token < tokens_; token++) {
            const auto expert = static_cast<uint32_t>(predicted[token * shape_.k + rank]);
            if (in_guess[expert] & (1u << static_cast<uint32_t>(when))) continue;  // another token's, at a better rank
            in_guess[expert] |= static_cast<uint8_t>(1u << static_cast<uint32_t>(when));
            if (store.residency(static_cast<uint32_t>(layer), expert) != Residency::Absent) continue;
            guesses.push_back({expert, static_cast<uint32_t>(rank), when});
            const Odds& chance = odds(layer, when, rank);
            const double cost = 1 - static_cast<double>(chance.used) / chance.of;
            if (mode_ == PrefetchMode::Auto && (!pays(chance) || cost > allowance_)) continue;
            allowance_ -= cost;
            ahead.push_back(expert);
        }
    }
    std::lock_guard<std::mutex> lock(mutex_);
    layers_[layer].asked += ahead.size();
    layers_[layer].active = mode_ == PrefetchMode::On || pays(layer);
}

void Prefetcher::observe(size_t layer, const std::vector<uint32_t>& experts, const ExpertStore& store) {
    if (!made_[layer]) return;
    made_[layer] = 0;
    uint8_t* in_guess = in_guess_.data() + layer * shape_.experts;
    for (const Guess& guess : guesses_[layer]) {
        odds(layer, guess.when, guess.rank).count(std::binary_search(experts.begin(), experts.end(), guess.expert));
    }
    guesses_[layer].clear();
    uint64_t predicted = 0, present = 0;
    for (uint32_t expert : experts) {
        const Residency residency = store.residency(static_cast<uint32_t>(layer), expert);
        predicted += in_guess[expert] != 0;
        present += residency == Residency::Resident || residency == Residency::Loading;
    }
    std::fill(in_guess, in_guess + shape_.experts, uint8_t{0});
    std::lock_guard<std::mutex> lock(mutex_);
    layers_[layer].wanted += experts.size();
    layers_[layer].predicted += predicted;
    layers_[layer].present += present;
}

std::vector<Prefetcher::Layer> Prefetcher::layers() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return layers_;
}

}  // namespace tmoe
