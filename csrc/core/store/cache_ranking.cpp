#include "core/store/cache_ranking.h"

namespace tmoe {

namespace {

constexpr uint32_t kPhase = 4;
constexpr uint32_t kTurn = 1u << 16;
constexpr uint64_t kForetold = 16;               ///< turns of every layer: so long what was foretold says that experts are read ahead
constexpr uint32_t kNever = 1u << 30;            ///< wait of what was never used: of Lru and Lfu the longest
constexpr double kLeastProbability = 1e-4;
constexpr uint64_t kLesson = 16;                 ///< turns from one solution of the weights to the next
constexpr double kToStart = 1, kToAll = 2000;     ///< ridges: of all layers' weights to the first ones, of a layer's to all layers'

}  // namespace

Ranking::Ranking(const CacheOptions& options)
    : options_(options),
      predicts_(options.policy == CachePolicy::Mix || options.policy == CachePolicy::Adaptive),
      clock_(options.layers),
      phase_(options.layers),
      weights_(predicts_ ? options.layers : 0, options.policy == CachePolicy::Mix ? options.mix : kMixStart),
      learners_(options.policy == CachePolicy::Adaptive ? options.layers : 0),
      added_(options.layers),
      layer_(options.layers * options.experts),
      last_use_(layer_.size()),
      wait_(layer_.size(), kNever),
      rates_(predicts_ ? layer_.size() : 0) {
    for (size_t entry = 0; entry < layer_.size(); entry++) layer_[entry] = static_cast<uint32_t>(entry / options.experts);
}

template <class Function> void Ranking::each_entry(uint32_t layer, Function function) {
    const uint32_t first = layer * static_cast<uint32_t>(options_.experts);
    for (uint32_t e = 0; e < options_.experts; e++) function(first + e);
    for (uint32_t entry : added_[layer]) function(entry);
}

void Ranking::estimate(uint32_t entry) {
    const double probability = predict(weights_[layer_[entry]], rates_[entry].terms());
    const double least = probability > kLeastProbability ? probability : kLeastProbability;  // of no number too
    wait_[entry] = static_cast<uint32_t>(kTurn / (least < 1 ? least : 1));
}

void Ranking::advance(uint32_t layer, const std::vector<uint32_t>& wanted, bool learning) {
    clock_[layer]++;
    if (turns_left_ > 0 && --turns_left_ == 0) early_ = 0;
    if (predicts_) {
        for (uint32_t entry : wanted) last_use_[entry] = clock_[layer];
        advance_rates(layer, learning);
    } else {
        if (options_.policy == CachePolicy::Lru) each_entry(layer, [&](uint32_t entry) { wait_[entry] += wait_[entry] < kNever; });
        for (uint32_t entry : wanted) use(entry);
    }
}

void Ranking::advance_rates(uint32_t layer, bool learning) {
    const uint64_t now = clock_[layer];
    const MixTerms steps = UseRates::steps(now);
    MixLearner* learner = learning && !learners_.empty() ? &learners_[layer] : nullptr;
    if (learner) learner->fade();
    each_entry(layer, [&](uint32_t entry) {
        const bool used = last_use_[entry] == now;
        if (learner) learner->add(rates_[entry].terms(), used);
        rates_[entry].age(steps);
        if (used) rates_[entry].use(steps);
    });
    if (learner && now % kLesson == 1) {
        MixLearner all;
        for (const MixLearner& one : learners_) all.add(one);
        weights_[layer] = learner->solve(kToAll, all.solve(kToStart, kMixStart));
    }
    each_entry(layer, [&](uint32_t entry) { estimate(entry); });
    const auto layers = static_cast<uint32_t>(options_.layers);
    for (uint32_t l = 0; l < layers; l++) phase_[l] = kPhase * kTurn / layers * ((l + 2 * layers - layer - 1) % layers + 1);
}

void Ranking::foresee(uint32_t layer) {
    if (clock_[layer] == 0 || options_.policy != CachePolicy::Adaptive) return;
    early_ = static_cast<uint32_t>((options_.layers + 2) / 5);
    turns_left_ = kForetold * options_.layers;
}

void Ranking::use(uint32_t entry) {
    const uint64_t now = clock_[layer_[entry]];
    if (last_use_[entry] == now) return;
    last_use_[entry] = now;
    if (predicts_) {
        rates_[entry].use(UseRates::steps(now));
        estimate(entry);
    } else if (options_.policy == CachePolicy::Lru) {
        wait_[entry] = 0;
    } else {
        wait_[entry] -= wait_[entry] != 0;
    }
}

void Ranking::add_entry(uint32_t layer) {
    added_[layer].push_back(static_cast<uint32_t>(layer_.size()));
    layer_.push_back(layer);
    last_use_.push_back(0);
    wait_.push_back(kNever);
    if (predicts_) rates_.emplace_back();
}

}  // namespace tmoe
