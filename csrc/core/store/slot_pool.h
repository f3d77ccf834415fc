// Memory of the expert store: one range of addresses cut into slots of one blob each. A slot takes memory from its first use on, and
// gives it back to the system when the budget shrinks; live bytes count what is taken.
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

    /** Addresses for `capacity` slots, no memory yet. RESOURCE_MEMORY_EXHAUSTED {required, available}. */
    static Status create(size_t slot_bytes, size_t capacity, std::unique_ptr<SlotPool>& out);

    uint8_t* at(size_t slot) const { return base_ + slot * slot_bytes_; }
    size_t slot_bytes() const { return slot_bytes_; }
    size_t capacity() const { return taken_.size(); }

    /** From now on the slot counts. */
    void take(size_t slot);
    /** The slot's memory goes back to the system; its content is lost. */
    void give_back(size_t slot);
    bool is_taken(size_t slot) const { return taken_[slot]; }
    size_t taken() const { return count_; }

  private:
    SlotPool() = default;
    uint8_t* base_ = nullptr;
    size_t slot_bytes_ = 0, mapped_ = 0, count_ = 0;
    std::vector<bool> taken_;
};

}  // namespace tmoe
