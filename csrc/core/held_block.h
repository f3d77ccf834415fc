// Memory beside weights and scratch that a model has to count: it takes from its experts what goes beyond their reserve.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>

#include "core/memory.h"

namespace tmoe {

/**
 * A block of what a model holds beside its weights: pages of KV caches, and what steps give back. `held` is their sum; it counts a block from
 * before it is allocated until after it is freed, so that who shares the memory out never sees more than there is. Any thread.
 */
class HeldBlock {
  public:
    using Sum = std::shared_ptr<std::atomic<int64_t>>;
    HeldBlock() = default;
    ~HeldBlock() { release(); }
    HeldBlock(HeldBlock&& other) noexcept = default;
    HeldBlock& operator=(HeldBlock&&) = delete;

    /** RESOURCE_MEMORY_EXHAUSTED. */
    Status allocate(size_t bytes, const Sum& held) {
        release();
        *held += static_cast<int64_t>(bytes);
        const Status status = buffer_.allocate(bytes);
        if (status.ok()) held_ = held;
        else *held -= static_cast<int64_t>(bytes);
        return status;
    }
    void release() {
        const auto bytes = static_cast<int64_t>(buffer_.size());
        buffer_.release();
        if (held_) *held_ -= bytes;
        held_.reset();
    }
    size_t size() const { return buffer_.size(); }
    uint8_t* data() { return buffer_.data(); }
    template <class T> T* as() { return buffer_.as<T>(); }

  private:
    Buffer buffer_;
    Sum held_;
};

}  // namespace tmoe
