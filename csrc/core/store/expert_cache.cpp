#include "core/store/expert_cache.h"

#include <algorithm>

#include "core/store/cache_ranking.h"
#include "core/tie_hash.h"

namespace tmoe {

namespace {

/** Entries are evicted in this order of classes, and by worth within one. */
enum Class : uint64_t { kDemoted, kOrdinary, kExpected };

class Cache final : public ExpertCache {
  public:
    explicit Cache(const CacheOptions& options)
        : options_(options), ranking_(options), allowed_(options.slots), step_of_(options.layers), expected_(options.layers), layers_(options.layers) {
        for (size_t entry = 0; entry < ranking_.entries(); entry++) add_state(static_cast<uint32_t>(entry), static_cast<uint32_t>(entry % options.experts));
    }

    void begin_step() override { step_++; }
    void next_wave(uint32_t layer, std::vector<uint32_t>& wanted, std::vector<WaveItem>& wave) override;
    void release(const std::vector<WaveItem>& wave) override;
    bool prefetch(uint32_t entry, WaveItem& out) override;
    void drop(uint32_t entry) override;
    void pin(uint32_t entry, bool pinned) override { states_[entry].pinned = pinned; }
    void demote(uint32_t entry, bool demoted) override { states_[entry].demoted = demoted; }
    size_t resize(size_t slots, std::vector<uint32_t>& evicted) override;
    uint32_t add_entry(uint32_t layer, uint32_t expert) override;

    int64_t slot_of(uint32_t entry) const override { return states_[entry].slot; }
    bool pinned(uint32_t entry) const override { return states_[entry].pinned; }
    size_t slots() const override { return allowed_; }
    size_t used() const override { return used_; }
    const CacheCounts& counts() const override { return counts_; }
    const std::vector<CacheCounts>& layer_counts() const override { return layers_; }

  private:
    struct State {
        int32_t slot = -1;
        uint32_t references = 0;
        uint32_t hash = 0;
        uint32_t expert = 0;
        bool pinned = false, demoted = false, expected = false;
    };
    struct Victim {
        uint64_t rank;      ///< class, worth and hash in one number
        uint32_t entry;
        bool operator<(const Victim& other) const { return rank != other.rank ? rank < other.rank : entry < other.entry; }
    };

    void add_state(uint32_t entry, uint32_t expert) {
        states_.emplace_back();
        states_.back().expert = expert;
        states_.back().hash = tie_hash(options_.seed, entry);
    }
    Victim ranked(uint32_t entry) const {
        const State& state = states_[entry];
        const uint64_t order = state.demoted ? kDemoted : state.expected ? kExpected : kOrdinary;
        return {order << 60 | uint64_t{ranking_.worth(entry)} << 28 | state.hash >> 4, entry};
    }
    void find_victims(size_t count);
    void begin_layer(uint32_t layer, const std::vector<uint32_t>& wanted);
    void take_slot(uint32_t entry);
    void leave_slot(uint32_t entry);
    void evict(uint32_t entry);
    void admit(uint32_t entry, uint32_t victim, WaveItem& item);

    CacheOptions options_;
    Ranking ranking_;
    size_t allowed_;                                ///< slots that may be in use
    size_t used_ = 0;
    uint64_t step_ = 1;
    std::vector<uint64_t> step_of_;                 ///< per layer: the step of its latest use
    std::vector<std::vector<uint32_t>> expected_;   ///< per layer: entries whose use at its next turn was foretold
    std::vector<State> states_;                     ///< per entry
    std::vector<uint32_t> holders_;                 ///< per slot: its entry, or kNoEntry
    std::vector<uint32_t> free_;                    ///< slots without one, a heap with the lowest on top
    std::vector<Victim> victims_;
    std::vector<uint32_t> absent_;
    CacheCounts counts_;
    std::vector<CacheCounts> layers_;
};

/** Leaves the `count` entries that are to go first, in their order, at the front of victims_; fewer where there are fewer. */
void Cache::find_victims(size_t count) {
    victims_.clear();
    for (uint32_t entry : holders_) {
        if (entry == kNoEntry || states_[entry].references || states_[entry].pinned) continue;
        victims_.push_back(ranked(entry));
    }
    count = std::min(count, victims_.size());
    if (count == 1) {
        std::swap(victims_[0], *std::min_element(victims_.begin(), victims_.end()));
    } else {
        std::partial_sort(victims_.begin(), victims_.begin() + static_cast<std::ptrdiff_t>(count), victims_.end());
    }
    victims_.resize(count);
}

void Cache::take_slot(uint32_t entry) {
    uint32_t slot = static_cast<uint32_t>(holders_.size());
    if (free_.empty()) {
        holders_.push_back(entry);
    } else {
        std::pop_heap(free_.begin(), free_.end(), std::greater<>());
        slot = free_.back();
        free_.pop_back();
        holders_[slot] = entry;
    }
    states_[entry].slot = static_cast<int32_t>(slot);
    used_++;
}

void Cache::leave_slot(uint32_t entry) {
    State& state = states_[entry];
    const uint32_t slot = static_cast<uint32_t>(state.slot);
    holders_[slot] = kNoEntry;
    free_.push_back(slot);
    std::push_heap(free_.begin(), free_.end(), std::greater<>());
    state.slot = -1;
    state.references = 0;
    used_--;
}

void Cache::evict(uint32_t entry) {
    leave_slot(entry);
    counts_.evictions++;
    layers_[ranking_.layer(entry)].evictions++;
}

/** Gives the entry a free slot, or the victim's. */
void Cache::admit(uint32_t entry, uint32_t victim, WaveItem& item) {
    if (victim != kNoEntry) evict(victim);
    take_slot(entry);
    item = {states_[entry].expert, entry, static_cast<uint32_t>(states_[entry].slot), true, victim};
}

/** The first wave of a layer in a step: its clock goes on, and what was foretold has come or not. */
void Cache::begin_layer(uint32_t layer, const std::vector<uint32_t>& wanted) {
    if (step_of_[layer] != step_) {
        step_of_[layer] = step_;
        // where nothing is ever evicted there is nothing to learn
        ranking_.advance(layer, wanted, allowed_ < ranking_.entries());
        for (uint32_t entry : expected_[layer]) states_[entry].expected = false;
        expected_[layer].clear();
    } else {
        for (uint32_t entry : wanted) ranking_.use(entry);
    }
}

void Cache::next_wave(uint32_t layer, std::vector<uint32_t>& wanted, std::vector<WaveItem>& wave) {
    wave.clear();
    begin_layer(layer, wanted);
    absent_.clear();
    for (uint32_t entry : wanted) {
        State& state = states_[entry];
        if (state.slot < 0) {
            absent_.push_back(entry);
            continue;
        }
        state.references++;
        wave.push_back({state.expert, entry, static_cast<uint32_t>(state.slot), false, kNoEntry});
    }
    const size_t hits = wave.size();
    size_t misses = 0;
    if (!absent_.empty()) {
        const size_t free = allowed_ > used_ ? allowed_ - used_ : 0;
        if (absent_.size() > free) find_victims(absent_.size() - free);
        else victims_.clear();
        misses = std::min(absent_.size(), free + victims_.size());
        for (size_t i = 0; i < misses; i++) {
            wave.emplace_back();
            admit(absent_[i], i < free ? kNoEntry : victims_[i - free].entry, wave.back());
            states_[absent_[i]].references++;
        }
    }
    wanted.assign(absent_.begin() + static_cast<std::ptrdiff_t>(misses), absent_.end());
    std::sort(wave.begin(), wave.end(), [](const WaveItem& a, const WaveItem& b) { return a.entry < b.entry; });
    for (CacheCounts* counts : {&counts_, &layers_[layer]}) {
        counts->uses += wave.size();
        counts->hits += hits;
        counts->misses += misses;
        counts->waves += !wave.empty();
    }
}

void Cache::release(const std::vector<WaveItem>& wave) {
    for (const WaveItem& item : wave) {
        State& state = states_[item.entry];
        if (state.slot == static_cast<int32_t>(item.slot) && state.references) state.references--;
    }
}

bool Cache::prefetch(uint32_t entry, WaveItem& out) {
    State& state = states_[entry];
    const uint32_t layer = ranking_.layer(entry);
    ranking_.foresee(layer);
    const auto expect = [&] {
        if (!state.expected) expected_[layer].push_back(entry);
        state.expected = true;
    };
    if (state.slot >= 0) {
        expect();
        return false;
    }
    uint32_t victim = kNoEntry;
    if (used_ >= allowed_) {
        find_victims(1);
        if (victims_.empty()) return false;
        victim = victims_[0].entry;
        const State& leaving = states_[victim];
        if (!leaving.demoted && (leaving.expected || ranking_.recent(victim))) return false;
    }
    admit(entry, victim, out);
    expect();
    counts_.prefetches++;
    layers_[layer].prefetches++;
    return true;
}

void Cache::drop(uint32_t entry) {
    if (states_[entry].slot >= 0) leave_slot(entry);
}

size_t Cache::resize(size_t slots, std::vector<uint32_t>& evicted) {
    allowed_ = std::max<size_t>(slots, 1);
    if (used_ > allowed_) {
        find_victims(used_ - allowed_);
        for (const Victim& victim : victims_) {
            evicted.push_back(victim.entry);
            evict(victim.entry);
        }
        allowed_ = std::max(allowed_, used_);
    }
    return allowed_;
}

uint32_t Cache::add_entry(uint32_t layer, uint32_t expert) {
    if (ranking_.entries() >= kMaxCacheEntries) return kNoEntry;
    const uint32_t entry = static_cast<uint32_t>(ranking_.entries());
    ranking_.add_entry(layer);
    add_state(entry, expert);
    return entry;
}

}  // namespace

Status ExpertCache::create(const CacheOptions& options, std::unique_ptr<ExpertCache>& out) {
    const size_t most = options.experts ? kMaxCacheEntries / options.experts : 0;
    if (options.layers == 0 || options.layers > most || options.slots == 0) {
        return Status(StatusCode::VALIDATION_ERROR,
                      format("expert cache: %zu layers of %zu experts in %zu slots; at least 1 of each, at most %zu experts in all", options.layers,
                             options.experts, options.slots, kMaxCacheEntries));
    }
    out = std::make_unique<Cache>(options);
    return {};
}

}  // namespace tmoe
