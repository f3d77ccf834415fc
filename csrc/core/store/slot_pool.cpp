#include "core/store/slot_pool.h"

#include <sys/mman.h>

#include "core/memory.h"

namespace tmoe {

namespace {

#if defined(__linux__)
constexpr int kReserved = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
#else
constexpr int kReserved = MAP_PRIVATE | MAP_ANONYMOUS;
#endif

Status exhausted(const char* what, size_t slots, size_t slot_bytes) {
    return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("%s for %zu experts of %zu bytes", what, slots, slot_bytes))
        .with("required", static_cast<double>(slots) * static_cast<double>(slot_bytes))
        .with("available", static_cast<double>(available_memory()));
}

}  // namespace

SlotPool::~SlotPool() {
    if (!base_) return;
    munmap(base_, mapped_);
    counters().live_bytes -= static_cast<int64_t>(taken_ * slot_bytes_);
}

Status SlotPool::create(size_t slot_bytes, size_t capacity, std::unique_ptr<SlotPool>& out) {
    std::unique_ptr<SlotPool> pool(new (std::nothrow) SlotPool());
    void* base = MAP_FAILED;
    if (pool && slot_bytes > 0 && capacity > 0 && capacity <= SIZE_MAX / slot_bytes) base = mmap(nullptr, slot_bytes * capacity, PROT_NONE, kReserved, -1, 0);
    if (base == MAP_FAILED) return exhausted("there are no addresses", capacity, slot_bytes);
    pool->base_ = static_cast<uint8_t*>(base);
    pool->slot_bytes_ = slot_bytes;
    pool->mapped_ = slot_bytes * capacity;
    pool->states_.resize(capacity, State::Free);
    out = std::move(pool);
    return {};
}

Status SlotPool::grant(size_t first, size_t last) {
    const size_t bytes = (last - first) * slot_bytes_;
    if (mprotect(at(first), bytes, PROT_READ | PROT_WRITE) != 0) return exhausted("the system has no memory", last - first, slot_bytes_);
#if defined(__linux__)
    (void)madvise(at(first), bytes, MADV_HUGEPAGE);
#endif
    for (size_t slot = first; slot < last; slot++) states_[slot] = State::Granted;
    held_ += last - first;
    return {};
}

/** New pages in the place of the old: they hold nothing, and count in no limit. */
void SlotPool::free_slot(size_t slot) {
    if (mmap(at(slot), slot_bytes_, PROT_NONE, kReserved | MAP_FIXED, -1, 0) == MAP_FAILED) {
        // Too many ranges of addresses: the memory goes back all the same.
        (void)madvise(at(slot), slot_bytes_, MADV_DONTNEED);
        (void)mprotect(at(slot), slot_bytes_, PROT_NONE);
    }
    states_[slot] = State::Free;
    held_--;
}

Status SlotPool::reserve(size_t slots) {
    const size_t before = held_;
    for (size_t first = 0; first < capacity() && held_ < slots; first++) {
        if (states_[first] != State::Free) continue;
        size_t last = first + 1;
        while (last < capacity() && states_[last] == State::Free && held_ + (last - first) < slots) last++;
        const Status status = grant(first, last);
        if (!status.ok()) {
            trim(before);
            return status;
        }
        first = last - 1;
    }
    return {};
}

void SlotPool::trim(size_t slots) {
    for (size_t slot = capacity(); slot-- > 0 && held_ > slots;) {
        if (states_[slot] == State::Granted) free_slot(slot);
    }
}

Status SlotPool::take(size_t slot) {
    if (is_taken(slot)) return {};
    if (states_[slot] == State::Free) TMOE_RETURN_IF_ERROR(grant(slot, slot + 1));
    states_[slot] = State::Taken;
    taken_++;
    counters().live_bytes += static_cast<int64_t>(slot_bytes_);
    return {};
}

void SlotPool::give_back(size_t slot) {
    if (!is_taken(slot)) return;
    free_slot(slot);
    taken_--;
    counters().live_bytes -= static_cast<int64_t>(slot_bytes_);
}

}  // namespace tmoe
