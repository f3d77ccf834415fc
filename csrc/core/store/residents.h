// Which expert's bytes are in which slot, and the reads that bring them: the part of the store that does what the cache has decided.
#pragma once
#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "core/store/expert_store.h"
#include "core/store/io_queue.h"
#include "core/store/slot_pool.h"

namespace tmoe {

/** One thread at a time, but for `state`, `states` and `fill`. Entries are those of the cache. */
class Residents {
  public:
    /** RESOURCE_MEMORY_EXHAUSTED. */
    Status start(const StoreOptions& options, std::shared_ptr<ExpertSource> source);

    size_t slot_bytes() const { return memory_->pool->slot_bytes(); }
    size_t capacity() const { return memory_->pool->capacity(); }
    size_t entries() const { return loads_.size(); }
    Residency state(uint32_t entry) const { return memory_->residency[entry].load(std::memory_order_acquire); }
    /** Of every entry, at one moment as far as memory goes: no more are resident than had slots. */
    std::vector<Residency> states() const;
    const uint8_t* blob(uint32_t slot) const { return memory_->pool->at(slot); }

    /** The entry has lost its slot: what of its read has not begun is not read. */
    void leave(uint32_t entry);
    /** The entry gets a slot, at most `most` of which take memory, and its bytes are read. */
    enum class Reason { Demand, Prefetch, Preload };
    void enter(uint32_t entry, uint32_t slot, size_t most, Reason reason);
    /** An entry with a slot is wanted now. */
    void demand(uint32_t entry);
    /** Begins the reads asked for since the last call. */
    void submit();

    /** The entry's bytes were seen to be there. */
    void seen(uint32_t entry) { loads_[entry].reset(); }
    /** Why an entry is Unavailable. */
    const Status& error(uint32_t entry) const { return loads_[entry]->error; }
    /** True where the entry's read has failed, or had not begun and does not begin any more: `abandon` it. */
    bool give_up(uint32_t entry);
    /** Like `leave`, but what could not be read stays Unavailable. */
    void abandon(uint32_t entry);
    /** False where a resident entry's bytes are not those that were read. Needs StoreOptions::scrub. */
    bool is_sound(uint32_t entry) const;
    /** The system grants memory for `most` slots in all. RESOURCE_MEMORY_EXHAUSTED; then nothing has changed. */
    Status reserve(size_t most) { return memory_->pool->reserve(most); }
    /** Gives the memory of unused slots back until at most `most` have some. */
    void shrink(size_t most);

    void close() { queue_.close(); }
    uint64_t ended() const { return memory_->ended; }
    /** Waits until `ended` is not `seen` any more, at most so long. */
    void wait(uint64_t seen, std::chrono::microseconds longest) { queue_.wait_for_end(seen, longest); }
    /** The counts of reads and bytes, but for those of `layer_reads`. Any thread. */
    void fill(StoreCounts& out) const;
    /** Per layer: demands that found a slot without its bytes, and bytes that were prefetched and evicted unused. */
    struct LayerReads {
        uint64_t late = 0, wasted = 0;
    };
    const std::vector<LayerReads>& layer_reads() const { return layer_reads_; }

  private:
    /** What reads write into; the last of the store and its threads frees it. */
    struct Memory final : IoQueue::Shared {
        std::unique_ptr<SlotPool> pool;
        std::vector<std::atomic<Residency>> residency;   ///< per entry
        std::vector<ExpertLayout> layouts;
        size_t experts = 0;
        std::vector<uint32_t> sums;                      ///< per entry: CRC-32C of what was read; none where nothing is scrubbed
        std::atomic<uint64_t> resident_bytes{0};

        void checked(Load& load) override {
            if (!sums.empty()) load.sum = crc32c(load.blob, layouts[load.layer].bytes);
        }
        void arrived(const Load& load) override {
            resident_bytes += layouts[load.layer].bytes;
            if (!sums.empty()) sums[load.layer * experts + load.expert] = load.sum;
        }
    };

    uint32_t layer_of(uint32_t entry) const { return static_cast<uint32_t>(entry / experts_); }
    uint32_t expert_of(uint32_t entry) const { return static_cast<uint32_t>(entry % experts_); }
    uint64_t file_bytes(uint32_t entry) const { return memory_->source->file_bytes(layer_of(entry), expert_of(entry)); }
    void read(uint32_t entry, Reason reason);
    void give_back_unused(size_t most);

    size_t experts_ = 0;
    std::shared_ptr<Memory> memory_;
    mutable std::mutex leaving_;                 ///< no entry leaves memory while `states` looks at all of them
    IoQueue queue_;
    std::vector<std::shared_ptr<Load>> loads_;   ///< per entry: its read, until it was seen to have ended
    std::vector<std::shared_ptr<Load>> batch_;   ///< to submit together
    std::vector<uint32_t> slots_;                ///< per entry
    std::vector<uint32_t> holders_;              ///< per slot: its entry, or kNoEntry
    std::vector<uint8_t> unused_;                ///< per entry: prefetched and not demanded since
    std::vector<uint8_t> counted_;               ///< per entry: its read counts among the demand bytes
    std::vector<LayerReads> layer_reads_;
    std::atomic<uint64_t> demand_bytes_{0}, prefetch_bytes_{0}, used_{0}, asked_{0}, ahead_{0};
};

}  // namespace tmoe
