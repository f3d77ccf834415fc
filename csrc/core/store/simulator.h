// Replays a trace against a cache: the live store's own code with any number of slots and any policy, or what to compare it with. The counts
// of the live cache come out exactly where slots, policy and seed are the recorded ones.
#pragma once
#include <vector>

#include "core/store/expert_cache.h"
#include "core/store/trace.h"

namespace tmoe {

enum class SimulatedPolicy : uint32_t {
    Cache,    ///< ExpertCache, as `cache` says
    Arc,      ///< adaptive replacement (Megiddo and Modha, FAST 2003) over all layers
    Optimum   ///< evicts what is wanted again last (Belady's MIN): needs the future
};

struct SimulationOptions {
    SimulatedPolicy policy = SimulatedPolicy::Cache;
    CacheOptions cache;            ///< layers and experts are the trace's
    size_t recorded_slots = 0;     ///< of the trace: its Resize records count where `cache.slots` is the same
    bool decisions = false;        ///< list them
};

/** How an entry came by its slot, or lost it without another entry's gain. */
enum class DecisionKind : uint32_t { Hit = 0, Miss = 1, Prefetch = 2, Resized = 3 };

struct Simulation {
    CacheCounts counts;
    std::vector<CacheCounts> layers;
    /** 4 words each: DecisionKind, entry, slot (of Resized kNoEntry), entry that was evicted for it (or kNoEntry). */
    std::vector<uint32_t> decisions;
};

/**
 * Within one turn of a layer, every policy keeps what it wants in that turn while anything else can be evicted. Arc and Optimum begin with
 * what was prefetched before the first step, and pass over all else but Layer records. VALIDATION_ERROR of a wrong trace or cache.
 */
Status simulate(const Trace& trace, const SimulationOptions& options, Simulation& out);

/** Arc and Optimum (simulator_peers.cpp). `trace` has been checked. */
void simulate_arc(const Trace& trace, size_t slots, Simulation& out);
void simulate_optimum(const Trace& trace, size_t slots, Simulation& out);

}  // namespace tmoe
