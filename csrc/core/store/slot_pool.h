// Memory of the expert store: one range of addresses cut into slots of one blob each. What the budget allows is asked of the system when the
// budget is set, so that no later moment can fail for it; a slot holds memory from its first use on, and gives it back when the budget shrinks.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/status.h"

namespace tmoe {

/**
 * Slots begin at multiples of kBlobAlignment. Where the system has huge pages the slots use them: what is resident is then at most one
 * huge page (2 MiB) more than the slots taken, as long as the lowest free slots are taken first. One thread at a time.
 */
class SlotPool {
  public:
    ~SlotPool();
    SlotPool(const SlotPool&) = delete;
    SlotPool& operator=(const SlotPool&) = delete;

    /** Addresses for `capacity` slots, no memory yet: they count in no limit but that of addresses. RESOURCE_MEMORY_EXHAUSTED {required, available}. */
    static Status create(size_t slot_bytes, size_t capacity, std::unique_ptr<SlotPool>& out);

    uint8_t* at(size_t slot) const { return base_ + slot * slot_bytes_; }
    size_t slot_bytes() const { return slot_bytes_; }
    size_t capacity() const { return states_.size(); }

    /**
     * The system grants the lowest free slots, until so many are granted or taken: from here on they count in its limits (RLIMIT_DATA, strict
     * overcommit). RESOURCE_MEMORY_EXHAUSTED {required, available}; then nothing has changed.
     */
    Status reserve(size_t slots);
    /** Gives granted slots that were not taken back until at most so many are granted or taken. */
    void trim(size_t slots);

    /** From now on the slot's memory counts as live. RESOURCE_MEMORY_EXHAUSTED where it was not reserved and the system has none. */
    Status take(size_t slot);
    /** The slot's memory goes back to the system; its content is lost. */
    void give_back(size_t slot);
    bool is_taken(size_t slot) const { return states_[slot] == State::Taken; }
    /** Neither granted nor taken. */
    bool is_free(size_t slot) const { return states_[slot] == State::Free; }
    size_t taken() const { return taken_; }

  private:
    enum class State : uint8_t { Free, Granted, Taken };
    SlotPool() = default;
    /** Slots `first` … `last` - 1. */
    Status grant(size_t first, size_t last);
    void free_slot(size_t slot);

    uint8_t* base_ = nullptr;
    size_t slot_bytes_ = 0, mapped_ = 0;
    size_t taken_ = 0, held_ = 0;        ///< slots; held: granted or taken
    std::vector<State> states_;
};

}  // namespace tmoe
