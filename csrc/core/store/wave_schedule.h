// The order of a layer's cache decisions, one place for the live store and the simulator: which experts hold slots together, and when
// slots pass on. It depends on the demands and on the cache alone, never on which read ended first.
#pragma once
#include <utility>
#include <vector>

#include "core/store/expert_cache.h"

namespace tmoe {

/**
 * One layer's experts at a time: `begin`, then `advance` until `parts()` is 0 (that is all that a simulator calls). Where all experts have a
 * slot together there is one part. Where they have not, the first wave is split into two halves: when the first has been computed its slots
 * go to further experts, whose reads overlap the second half's compute, and so on in turn.
 */
class WaveSchedule {
  public:
    explicit WaveSchedule(ExpertCache& cache) : cache_(cache) {}

    /** Takes the first wave of `entries` (ascending, each once, of this layer). */
    void begin(uint32_t layer, const std::vector<uint32_t>& entries);
    /** Releases the oldest part, which has been computed; appends a part to the others where further experts were given slots. */
    void advance();
    /** Parts that hold references now: at most 2. 0 with `left` above 0: every slot is pinned. */
    size_t parts() const { return count_; }
    /** Oldest first. */
    const std::vector<WaveItem>& part(size_t index) const { return parts_[index]; }
    /** Experts that were not given a slot yet. */
    size_t left() const { return wanted_.size(); }

    /** The entry has lost its slot and its references (ExpertCache::drop): it must not be released again. */
    void forget(uint32_t entry);
    /** Releases every part; what has no slot yet is given up. */
    void abort();

  private:
    void take_wave();

    ExpertCache& cache_;
    uint32_t layer_ = 0;
    std::vector<uint32_t> wanted_;
    std::vector<WaveItem> parts_[2];
    size_t count_ = 0;
};

}  // namespace tmoe
