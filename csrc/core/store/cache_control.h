// A cache under its schedule, with a record of what is asked of it: the store of host memory and the slots of a device decide through this,
// so that the same demands give the same counts wherever the experts are, and a trace holds what was really asked.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "core/store/expert_cache.h"
#include "core/store/trace.h"
#include "core/store/wave_schedule.h"

namespace tmoe {

/** One thread at a time. Entries are those of ExpertCache. */
class CacheControl {
  public:
    /** The errors of ExpertCache::create. `trace` may be null. */
    Status start(const CacheOptions& options, std::shared_ptr<TraceLog> trace);

    const ExpertCache& cache() const { return *cache_; }
    size_t pinned() const { return pinned_; }
    uint32_t entry_of(uint32_t layer, uint32_t expert) const { return static_cast<uint32_t>(layer * options_.experts + expert); }
    uint32_t layer_of(uint32_t entry) const { return static_cast<uint32_t>(entry / options_.experts); }
    uint32_t expert_of(uint32_t entry) const { return static_cast<uint32_t>(entry % options_.experts); }

    void begin_step(const StepShape& shape);
    /** The layer's demands: `wanted` ascending, each once. Then `advance` for each part that was computed, and `end_layer`, also after an error. */
    void begin_layer(uint32_t layer, const std::vector<uint32_t>& wanted);
    /** Parts that hold references now, oldest first (WaveSchedule). */
    size_t parts() const { return schedule_->parts(); }
    const std::vector<WaveItem>& part(size_t index) const { return schedule_->part(index); }
    size_t left() const { return schedule_->left(); }
    /** The oldest part was computed. True where another one was added behind the others. */
    bool advance();
    void end_layer();
    bool in_layer() const { return in_layer_; }

    /** Entries that will probably be wanted, most wanted first: appends those that were given slots. Within a layer and between two. */
    void prefetch(const std::vector<uint32_t>& entries, std::vector<WaveItem>& admitted);
    /**
     * Entries to fill free slots with, ascending: pinned ones first, then preferred ones, then the policy's, of each as many of every layer; none
     * that is demoted. `placement`: per entry, of Placement; empty = all ByPolicy. `in_reach(entry)`: it can be read.
     */
    std::vector<uint32_t> fill_order(const std::vector<uint8_t>& placement, const std::function<bool(uint32_t)>& in_reach) const;
    /** The entry's bytes did not come: its slot is free, and a later demand tries again. */
    void drop(uint32_t entry);

    void pin(uint32_t entry, bool pinned);
    void demote(uint32_t entry, bool demoted);
    /** ExpertCache::resize. */
    size_t resize(size_t slots, std::vector<uint32_t>& evicted);

  private:
    CacheOptions options_;
    std::unique_ptr<ExpertCache> cache_;
    std::unique_ptr<WaveSchedule> schedule_;
    std::shared_ptr<TraceLog> trace_;
    size_t pinned_ = 0;
    uint32_t computed_ = 0;   ///< parts of the layer
    bool in_layer_ = false;
};

/**
 * EXPERT_UNAVAILABLE {layer, expert, experts, wanted, archived} where entries of a layer are in an archive and nobody has brought them; OK
 * where none is. `step_wanted`: what the step has asked for so far.
 */
Status archived_experts(uint32_t layer, const std::vector<uint32_t>& missing, size_t experts, const std::vector<uint32_t>& step_wanted);

}  // namespace tmoe
