// Which experts stay in memory: the decisions alone. No I/O, no clock, no thread: the same calls give the same decisions, so the live
// store and the offline simulator share this code and their counts agree exactly.
//
// An entry is one version of one expert; the first layers · experts entries are (layer · experts + expert) of version 0.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/status.h"
#include "core/store/use_predictor.h"

namespace tmoe {

enum class CachePolicy : uint32_t {
    Lru,      ///< least recently used first
    Lfu,      ///< least often used first
    Adaptive, ///< per layer a mix of recency and frequency that follows what has worked (the default)
    Mix       ///< one fixed mix of recency and frequency for every layer (CacheOptions::mix): to compare with
};

struct CacheOptions {
    size_t layers = 0, experts = 0;
    size_t slots = 0;              ///< experts that fit
    CachePolicy policy = CachePolicy::Adaptive;
    uint32_t seed = 0;             ///< of the hash that breaks ties
    MixTerms mix = kMixStart;      ///< of Mix: weights of the rates of use (use_predictor.h)
};

/** What the cache is told of an expert. Preferred: the policy's, but read before others where slots are filled. */
enum class Placement : uint8_t { ByPolicy, Pinned, Demoted, Preferred };

inline constexpr size_t kMaxCacheEntries = size_t{1} << 20;   ///< layers · experts, at most

inline constexpr uint32_t kNoEntry = UINT32_MAX;

/** One expert of a wave. */
struct WaveItem {
    uint32_t expert = 0;           ///< whose version the entry is: 0 … experts - 1
    uint32_t entry = 0;
    uint32_t slot = 0;             ///< 0 … the largest number of slots there has been - 1; at most slots() of them are in use
    bool admitted = false;         ///< it was absent: its bytes have to be read into the slot
    uint32_t evicted = kNoEntry;   ///< of an admitted one: the entry that lost the slot
};

struct CacheCounts {
    uint64_t uses = 0;             ///< (step, layer, expert) demands
    uint64_t hits = 0;             ///< that held a slot: what a store calls hits and late together, for how far a read is decides nothing
    uint64_t misses = 0;
    uint64_t evictions = 0;
    uint64_t prefetches = 0;       ///< admissions by `prefetch`
    uint64_t waves = 0;
};

class ExpertCache {
  public:
    /** VALIDATION_ERROR where there is no layer, no expert or no slot, or more than kMaxCacheEntries entries. */
    static Status create(const CacheOptions& options, std::unique_ptr<ExpertCache>& out);
    virtual ~ExpertCache() = default;

    /** A step begins: the unit of time. */
    virtual void begin_step() = 0;

    /**
     * The next experts of a layer that can be in memory at once: references those that hold a slot, then gives slots to absent ones in
     * ascending order, evicting what is neither referenced nor pinned, until every slot is referenced. `wanted`: entries not handed out yet,
     * ascending; what is handed out is removed from it. Never empty while `wanted` is not, unless every slot is pinned or referenced elsewhere.
     * WaveSchedule (wave_schedule.h) calls it, for the store and the simulator alike.
     */
    virtual void next_wave(uint32_t layer, std::vector<uint32_t>& wanted, std::vector<WaveItem>& wave) = 0;

    /** The wave has been computed: its references go. */
    virtual void release(const std::vector<WaveItem>& wave) = 0;

    /**
     * The entry will probably be wanted at its layer's next use: until then it is evicted only when nothing else is left. An absent one gets
     * a slot; it counts as used neither now nor later until it is demanded. False where it holds a slot already, or where what would be
     * evicted is worth as much: what its own layer used last time, or what is expected too.
     */
    virtual bool prefetch(uint32_t entry, WaveItem& out) = 0;

    /** The entry's bytes did not arrive, or are not wanted: it loses its slot and its references. No eviction is counted. */
    virtual void drop(uint32_t entry) = 0;
    /** Pinned entries are never evicted. An absent one is only marked. */
    virtual void pin(uint32_t entry, bool pinned) = 0;
    /** To be evicted before any other (its tier was demoted), or no longer so. */
    virtual void demote(uint32_t entry, bool demoted) = 0;
    /**
     * Another number of slots, at least 1; appends the entries that lost theirs, worth least first. Referenced and pinned ones stay: the number
     * reached, slots() from now on, is returned.
     */
    virtual size_t resize(size_t slots, std::vector<uint32_t>& evicted) = 0;
    /** A new version of an expert: an entry of its layer, never used. kNoEntry beyond kMaxCacheEntries. */
    virtual uint32_t add_entry(uint32_t layer, uint32_t expert) = 0;

    /** The entry's slot, or -1. */
    virtual int64_t slot_of(uint32_t entry) const = 0;
    virtual bool pinned(uint32_t entry) const = 0;
    virtual size_t slots() const = 0;
    /** Slots that hold an entry. */
    virtual size_t used() const = 0;
    virtual const CacheCounts& counts() const = 0;
    /** The same per layer; an eviction counts for the layer of the entry that went. */
    virtual const std::vector<CacheCounts>& layer_counts() const = 0;
};

}  // namespace tmoe
