// Which experts are in a device's memory: the decisions. Whoever has the device moves the bytes, out of the host's store below, and does not
// compute a part before they are there.
#pragma once
#include <memory>
#include <vector>

#include "core/store/cache_control.h"
#include "core/store/expert_store.h"

namespace tmoe {

struct HotOptions {
    size_t layers = 0, experts = 0;      ///< experts: per layer
    size_t slots = 0;                    ///< of the device's memory
    size_t slot_bytes = 0;
    CachePolicy policy = CachePolicy::Adaptive;
    uint32_t seed = 0;
    std::shared_ptr<TraceLog> trace;     ///< records what is asked of the cache; may be null
    enum class Ahead : uint8_t { Off, On, Auto } ahead = Ahead::Off;   ///< whether foretold experts are brought before they are demanded
};

/** What came of the experts that were foretold for a layer. */
struct Foresight {
    uint64_t wanted = 0;      ///< demands that a prediction was made for
    uint64_t predicted = 0;   ///< of these: in the prediction
    uint64_t present = 0;     ///< of these: had a slot when demanded
    uint64_t asked = 0;       ///< experts that were given a slot ahead
};

/** One thread at a time. Experts that have no slot are read from `below`, which may be used by another thread meanwhile. */
class HotExperts {
  public:
    /** RESOURCE_BUDGET_TOO_SMALL {required, available, slotBytes} for fewer slots than one in use and one being filled; VALIDATION_ERROR. */
    static Status create(HotOptions options, const std::shared_ptr<const ExpertStore>& below, std::unique_ptr<HotExperts>& out);

    const CacheControl& control() const { return control_; }
    const HotOptions& options() const { return options_; }

    void begin_step(const StepShape& shape);
    /**
     * The routes of a layer, ids[count], in any order: takes its first parts (CacheControl). EXPERT_UNAVAILABLE {layer, expert, experts, wanted,
     * archived} before any decision; RUNTIME_INVARIANT_VIOLATED for an id that is none; RESOURCE_BUDGET_TOO_SMALL where every slot is pinned.
     */
    Status begin_layer(uint32_t layer, const int32_t* ids, size_t count);
    /** The oldest part was computed. `added`: there is another one behind the others. RESOURCE_BUDGET_TOO_SMALL as above. */
    Status advance(bool& added);
    /** After the last part, or an error. */
    void end_layer() { control_.end_layer(); }
    /** The expert's bytes did not come. */
    void drop(uint32_t entry) { control_.drop(entry); }

    /** Experts of a layer that will probably be wanted, most wanted first: appends those that were given slots. */
    void prefetch(uint32_t layer, const std::vector<uint32_t>& experts, std::vector<WaveItem>& admitted);
    /**
     * Whether a prediction for the layer is of use in this step. Auto: where at least every second absent expert that was foretold was then
     * demanded, and now and then where it was not.
     */
    bool foresees(uint32_t layer) const;
    /** The routes that the layer will probably have, ids[count], in any order: appends what was given a slot ahead of its demand. */
    void foresee(uint32_t layer, const int32_t* ids, size_t count, std::vector<WaveItem>& admitted);
    /** Whether experts are brought ahead for the layer now. */
    bool brings_ahead(uint32_t layer) const { return options_.ahead == HotOptions::Ahead::On || (options_.ahead == HotOptions::Ahead::Auto && pays(layer)); }
    const std::vector<Foresight>& foresight() const { return foresight_; }
    /** Fills free slots with what is in reach, as `place` was told (CacheControl::fill_order): appends what got one. */
    void fill(std::vector<WaveItem>& admitted);
    /**
     * [layers][experts] of Placement. Appends what comes back and was given a slot. RESOURCE_BUDGET_TOO_SMALL, with the
     * pins that had room.
     */
    Status place(const uint8_t* placement, std::vector<WaveItem>& admitted);
    uint8_t placement(uint32_t entry) const { return placement_[entry]; }
    /** Appends the entries that lost their slot. RESOURCE_BUDGET_TOO_SMALL; then nothing has changed. */
    Status resize(size_t slots, std::vector<uint32_t>& evicted);

  private:
    HotExperts(HotOptions options, const std::shared_ptr<const ExpertStore>& below) : options_(std::move(options)), below_(below) {}
    /** Distinct experts of ids, ascending, into `out`; false for an id that is none. */
    bool distinct(const int32_t* ids, size_t count, std::vector<uint32_t>& out);
    bool pays(uint32_t layer) const { return odds_[layer].used * 2 >= odds_[layer].of; }
    void learn(uint32_t layer);
    Status check_slots(size_t slots, size_t pinned) const;
    Status check_progress() const;
    bool in_reach(uint32_t entry) const;

    HotOptions options_;
    std::weak_ptr<const ExpertStore> below_;
    CacheControl control_;
    std::vector<uint8_t> placement_;
    std::vector<uint8_t> marked_;             ///< scratch: per expert of a layer
    std::vector<uint32_t> wanted_, missing_, step_wanted_, found_;
    /** How often a foretold expert that was absent was demanded, of late. */
    struct Odds {
        uint32_t used = 3, of = 4;
    };
    struct Guess {
        bool made = false;
        std::vector<uint32_t> experts;        ///< foretold
        std::vector<uint32_t> absent;         ///< of these, those that had no slot
    };
    std::vector<Odds> odds_;                  ///< per layer
    std::vector<Guess> guesses_;              ///< per layer, of this step
    std::vector<Foresight> foresight_;        ///< per layer
    uint64_t step_ = 0;
};

}  // namespace tmoe
