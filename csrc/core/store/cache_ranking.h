// What each expert is worth to the cache: the more, the longer it stays. Recency and frequency are counted in the uses of the expert's
// own layer, because layers take turns: measured in look-ups, the least recently used experts would always be the next layer's.
#pragma once
#include <vector>

#include "core/store/expert_cache.h"

namespace tmoe {

class Ranking {
  public:
    explicit Ranking(const CacheOptions& options);

    /** The layer is used once more: everything of it ages. */
    void advance(uint32_t layer);
    /** The entry is used in its layer's latest use; again there, it changes nothing. */
    void use(uint32_t entry);
    /** A new entry, never used. */
    void add_entry(uint32_t layer);

    uint32_t worth(uint32_t entry) const { return worth_[entry]; }
    /** Whether the entry was used in its layer's latest use. */
    bool recent(uint32_t entry) const { return clock_[layer_[entry]] != 0 && last_use_[entry] == clock_[layer_[entry]]; }
    uint32_t layer(uint32_t entry) const { return layer_[entry]; }
    size_t entries() const { return layer_.size(); }

  private:
    template <class Function> void each_entry(uint32_t layer, Function function);

    CachePolicy policy_;
    uint32_t shift_;                             ///< of Mix
    size_t experts_;
    std::vector<uint64_t> clock_;                ///< per layer: how often it was used
    std::vector<std::vector<uint32_t>> added_;   ///< per layer: entries beyond its first `experts`
    std::vector<uint32_t> layer_;                ///< per entry, and so on
    std::vector<uint64_t> last_use_;             ///< on its layer's clock; 0 = never
    std::vector<uint32_t> worth_;
};

}  // namespace tmoe
