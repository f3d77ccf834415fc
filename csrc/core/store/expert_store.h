// Experts in memory under a budget: looks up, loads, references and evicts. Everything here is called on the backend's queue, in the
// order of the plan, but for what says otherwise; reads run on threads of the store's own, demand before prefetch.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "core/store/expert_cache.h"
#include "core/store/expert_source.h"
#include "core/store/trace.h"

namespace tmoe {

enum class Residency : uint8_t { Absent, Loading, Resident, Unavailable };

struct StoreOptions {
    std::vector<ExpertLayout> layouts;   ///< one per layer
    size_t experts = 0;                  ///< per layer
    uint64_t budget_bytes = 0;           ///< of expert memory; a slot is the largest layout
    size_t workers = 1;                  ///< threads that compute: the least budget is one expert for each and one in flight
    size_t io_threads = 4;               ///< see kReadBytes (direct_file.h)
    CachePolicy policy = CachePolicy::Adaptive;
    uint32_t seed = 0;
    size_t scrub = 0;                    ///< resident experts that each `scrub` compares with the checksum of what was read
    std::shared_ptr<TraceLog> trace;     ///< records what is asked of the cache; may be null
};

struct StoreCounts {
    CacheCounts cache;
    uint64_t late = 0;                   ///< part of cache.hits, as of the last layer too: demands for an expert with a slot whose bytes were not there yet
    uint64_t demand_bytes = 0, prefetch_bytes = 0;
    uint64_t prefetch_used = 0;          ///< bytes of prefetched experts that were demanded before they were evicted
    uint64_t prefetch_wasted = 0;        ///< bytes of those that were evicted without
    uint64_t asked_bytes = 0;            ///< of all experts that got a slot, on demand or ahead of it, even where nothing was read before they lost it
    uint64_t ahead_bytes = 0;            ///< of those that got it ahead; like `asked_bytes` and `prefetch_used` it does not depend on how fast reads are
    uint64_t read_errors = 0;
    uint64_t wait_nanoseconds = 0;       ///< the step waited for reads
    uint64_t bookkeeping_nanoseconds = 0;///< look-up, reference and eviction calls, without the waits
    uint64_t resident_bytes = 0, budget_bytes = 0;
};

/** Of one layer, as of the last one that was computed. */
struct StoreLayerCounts {
    CacheCounts cache;
    uint64_t late = 0, prefetch_wasted = 0;   ///< as in StoreCounts
};

/** An expert ready to be computed with. */
struct ReadyExpert {
    uint32_t expert;
    const uint8_t* blob;
};

class ExpertStore {
  public:
    /** RESOURCE_BUDGET_TOO_SMALL {required, available, slotBytes}, RESOURCE_MEMORY_EXHAUSTED. */
    static Status create(StoreOptions options, std::shared_ptr<ExpertSource> source, std::shared_ptr<ExpertStore>& out);
    virtual ~ExpertStore() = default;

    virtual const ExpertLayout& layout(uint32_t layer) const = 0;
    /** Whether the expert has a slot, and whether all have: what the order of the calls decides, however far the reads are. */
    virtual bool holds(uint32_t layer, uint32_t expert) const = 0;
    virtual bool holds_all() const = 0;

    virtual void begin_step(const StepShape& shape) = 0;
    void begin_step() { begin_step(StepShape{}); }
    /**
     * Begins the use of a layer's experts in this step: `experts` ascending, each once. Issues every read that has a slot at once.
     * Then `next` until it gives nothing more, then `end_layer` (also after an error or a cancellation: it releases every reference).
     * EXPERT_UNAVAILABLE {layer, expert, experts, wanted, archived} before any decision where some are neither in memory nor in a local file:
     * `experts` has the ids of all of them, `wanted` layer * experts + expert of all that the step has asked for, with commas between.
     */
    virtual Status begin_layer(uint32_t layer, const std::vector<uint32_t>& experts) = 0;
    /**
     * Waits until at least one expert not handed out yet is in memory, and appends all that are; nothing when all were handed out.
     * The experts of a call are to be computed before the next call. Order is that of arrival and changes no decision and no bit.
     * CANCELLED (within a millisecond or so); the read's error, EXPERT_CORRUPTED or EXPERT_UNAVAILABLE {layer, expert}.
     */
    virtual Status next(std::vector<ReadyExpert>& ready, const std::atomic<bool>* cancel) = 0;
    virtual void end_layer() = 0;
    /**
     * Between steps: compares the next StoreOptions::scrub resident experts, in order of layer and expert and round again, with what was read.
     * RUNTIME_MEMORY_CORRUPTION {layer, expert}: its bytes have changed in memory, so what was computed with it may be wrong; it is read again
     * when it is wanted.
     */
    virtual Status scrub() = 0;
    /** Issues reads of experts that a later layer will probably want, most wanted first, behind every demand. Between begin_layer and end_layer too. */
    virtual void prefetch(uint32_t layer, const std::vector<uint32_t>& experts) = 0;

    /**
     * Reads what fits and is not in an archive, in the order of CacheControl::fill_order, with `progress(done, count)` after each; call before the
     * first step. First error; CANCELLED.
     */
    virtual Status preload(const std::vector<uint8_t>& placement, const std::function<void(size_t, size_t)>& progress, const std::atomic<bool>* cancel) = 0;

    virtual Status pin(uint32_t layer, uint32_t expert, bool pinned) = 0;
    virtual void demote(uint32_t layer, uint32_t expert, bool demoted) = 0;
    /** Between steps: the expert is the blob at `offset` of the file from now on; what is in memory of it goes. */
    virtual void replace(uint32_t layer, uint32_t expert, std::shared_ptr<DirectFile> file, uint64_t offset, uint32_t crc32c) = 0;
    /**
     * Between steps. Memory above the new budget is given back to the system at once, memory that it adds is reserved. RESOURCE_BUDGET_TOO_SMALL,
     * RESOURCE_MEMORY_EXHAUSTED; then nothing has changed.
     */
    virtual Status set_budget(uint64_t bytes) = 0;

    /**
     * Ends the reading threads and waits for what is under way, 5 s at most, so that nothing is left once the store is freed. The last call.
     * Without it, freeing the store waits for nothing: memory and files go when the last read has ended.
     */
    virtual void close() = 0;

    // Any thread:
    /** False where the expert's bytes are in an archive and nobody has brought them. */
    virtual bool local(uint32_t layer, uint32_t expert) const = 0;
    /** An archived expert's blob is the file at `path` from now on. */
    virtual void bring(uint32_t layer, uint32_t expert, const std::string& path) = 0;
    /** The file at `path` has gone: what was brought or adopted from it is in the archive again. */
    virtual void lose(uint32_t layer, uint32_t expert, const std::string& path) = 0;
    /** The same with a part of a file that stays open. */
    virtual void adopt(uint32_t layer, uint32_t expert, std::shared_ptr<DirectFile> file, uint64_t offset) = 0;
    virtual Residency residency(uint32_t layer, uint32_t expert) const = 0;
    /** [layers][experts], at one moment: never more of them resident than had memory. Any thread. */
    virtual std::vector<Residency> residencies() const = 0;
    virtual StoreCounts counts() const = 0;
    virtual std::vector<StoreLayerCounts> layer_counts() const = 0;
};

}  // namespace tmoe
