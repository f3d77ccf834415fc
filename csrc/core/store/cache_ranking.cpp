#include "core/store/cache_ranking.h"

namespace tmoe {

namespace {

constexpr uint32_t kOne = 1u << 31;   ///< worth of what is used at every turn of its layer

}  // namespace

Ranking::Ranking(const CacheOptions& options)
    : policy_(options.policy == CachePolicy::Adaptive ? CachePolicy::Mix : options.policy),
      shift_(options.policy == CachePolicy::Adaptive ? 4 : options.mix_shift),
      experts_(options.experts),
      clock_(options.layers),
      added_(options.layers),
      layer_(options.layers * options.experts),
      last_use_(layer_.size()),
      worth_(layer_.size()) {
    for (size_t entry = 0; entry < layer_.size(); entry++) layer_[entry] = static_cast<uint32_t>(entry / experts_);
}

template <class Function> void Ranking::each_entry(uint32_t layer, Function function) {
    uint32_t* first = worth_.data() + layer * experts_;
    for (size_t e = 0; e < experts_; e++) function(first[e]);
    for (uint32_t entry : added_[layer]) function(worth_[entry]);
}

void Ranking::advance(uint32_t layer) {
    clock_[layer]++;
    switch (policy_) {
        case CachePolicy::Lru: each_entry(layer, [](uint32_t& worth) { worth -= worth != 0; }); break;
        case CachePolicy::Lfu: break;
        default: each_entry(layer, [shift = shift_](uint32_t& worth) { worth -= worth >> shift; });
    }
}

void Ranking::use(uint32_t entry) {
    const uint64_t now = clock_[layer_[entry]];
    if (last_use_[entry] == now) return;
    last_use_[entry] = now;
    switch (policy_) {
        case CachePolicy::Lru: worth_[entry] = UINT32_MAX; break;
        case CachePolicy::Lfu: worth_[entry] += worth_[entry] != UINT32_MAX; break;
        default: worth_[entry] += kOne >> shift_;
    }
}

void Ranking::add_entry(uint32_t layer) {
    added_[layer].push_back(static_cast<uint32_t>(layer_.size()));
    layer_.push_back(layer);
    last_use_.push_back(0);
    worth_.push_back(0);
}

}  // namespace tmoe
