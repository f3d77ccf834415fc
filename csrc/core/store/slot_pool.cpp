#include "core/store/slot_pool.h"

#include <sys/mman.h>

#include "core/memory.h"

namespace tmoe {

SlotPool::~SlotPool() {
    if (!base_) return;
    counters().live_bytes -= static_cast<int64_t>(count_ * slot_bytes_);
    munmap(base_, mapped_);
}

Status SlotPool::create(size_t slot_bytes, size_t capacity, std::unique_ptr<SlotPool>& out) {
    std::unique_ptr<SlotPool> pool(new (std::nothrow) SlotPool());
    void* base = MAP_FAILED;
    if (pool && slot_bytes > 0 && capacity > 0 && capacity <= SIZE_MAX / slot_bytes) {
#if defined(__linux__)
        constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
#else
        constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS;
#endif
        base = mmap(nullptr, slot_bytes * capacity, PROT_READ | PROT_WRITE, kFlags, -1, 0);
    }
    if (base == MAP_FAILED) {
        return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("cannot reserve addresses for %zu experts of %zu bytes", capacity, slot_bytes))
            .with("required", static_cast<double>(slot_bytes) * static_cast<double>(capacity))
            .with("available", static_cast<double>(available_memory()));
    }
    pool->base_ = static_cast<uint8_t*>(base);
    pool->slot_bytes_ = slot_bytes;
    pool->mapped_ = slot_bytes * capacity;
    pool->taken_.resize(capacity);
#if defined(__linux__)
    (void)madvise(base, pool->mapped_, MADV_HUGEPAGE);
#endif
    out = std::move(pool);
    return {};
}

void SlotPool::take(size_t slot) {
    if (taken_[slot]) return;
    taken_[slot] = true;
    count_++;
    counters().live_bytes += static_cast<int64_t>(slot_bytes_);
#if defined(__linux__)
    (void)madvise(at(slot), slot_bytes_, MADV_HUGEPAGE);  // as it was before it was given back
#endif
}

void SlotPool::give_back(size_t slot) {
    if (!taken_[slot]) return;
    taken_[slot] = false;
    count_--;
    counters().live_bytes -= static_cast<int64_t>(slot_bytes_);
#if defined(__linux__)
    // Without huge pages from here on: the system would fill the hole up again to join what is beside it.
    (void)madvise(at(slot), slot_bytes_, MADV_NOHUGEPAGE);
    (void)madvise(at(slot), slot_bytes_, MADV_DONTNEED);
#else
    (void)mmap(at(slot), slot_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#endif
}

}  // namespace tmoe
