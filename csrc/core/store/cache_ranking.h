// What each expert is worth to the cache: the more, the longer it stays. Recency and frequency are counted in turns of the expert's own
// layer, because layers take turns: measured in look-ups, the least recently used experts would always be the next layer's.
//
// Lru and Lfu are the plain ones. Mix and Adaptive evict what will probably not be wanted for the longest time: an expert that is used with
// probability p at each turn of its layer is wanted after 1 / p turns, and a layer whose turn has just been comes again later than the next
// one: a part of a turn that counts kPhase-fold, because p is only an estimate.
//
// Where experts are read ahead, Adaptive counts a use in the first layers twice. What they want follows from a token that has just been chosen,
// so a miss there is waited for; of later layers reads are ahead, and the disk has time for more of them.
#pragma once
#include <vector>

#include "core/store/expert_cache.h"
#include "core/store/use_predictor.h"

namespace tmoe {

class Ranking {
  public:
    explicit Ranking(const CacheOptions& options);

    /** A turn of the layer begins, in which `wanted` are used. With `learning`, Adaptive draws its lesson from it. */
    void advance(uint32_t layer, const std::vector<uint32_t>& wanted, bool learning);
    /** A use that the turn's `advance` did not name; another one of the same turn changes nothing. */
    void use(uint32_t entry);
    /** A new entry, never used. */
    void add_entry(uint32_t layer);

    /** An expert of the layer was foretold. Before its layer's first turn that is how a cache is filled, and says nothing. */
    void foresee(uint32_t layer);

    uint32_t worth(uint32_t entry) const { return ~((wait_[entry] >> (layer_[entry] < early_)) + phase_[layer_[entry]]); }
    /** Whether the entry was used in its layer's latest turn. */
    bool recent(uint32_t entry) const { return clock_[layer_[entry]] != 0 && last_use_[entry] == clock_[layer_[entry]]; }
    uint32_t layer(uint32_t entry) const { return layer_[entry]; }
    size_t entries() const { return layer_.size(); }

  private:
    template <class Function> void each_entry(uint32_t layer, Function function);
    void advance_rates(uint32_t layer, bool learning);
    void estimate(uint32_t entry);

    CacheOptions options_;
    uint32_t early_ = 0;                         ///< how many layers count twice now
    uint64_t turns_left_ = 0;                    ///< of all layers, until they do not any more
    bool predicts_;                              ///< Mix and Adaptive
    std::vector<uint64_t> clock_;                ///< per layer: turns
    std::vector<uint32_t> phase_;                ///< per layer: until its next turn, in 2^-16 of all layers' turns, times kPhase
    std::vector<MixTerms> weights_;              ///< per layer
    std::vector<MixLearner> learners_;           ///< per layer, of Adaptive
    std::vector<std::vector<uint32_t>> added_;   ///< per layer: entries beyond its first `experts`
    std::vector<uint32_t> layer_;                ///< per entry, and so on
    std::vector<uint64_t> last_use_;             ///< on its layer's clock; 0 = never
    std::vector<uint32_t> wait_;                 ///< turns until the next use, in 2^-16; of Lru since the last use, of Lfu less each use
    std::vector<UseRates> rates_;
};

}  // namespace tmoe
