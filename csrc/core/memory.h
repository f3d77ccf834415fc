// The one allocator for large memory: never throws, aligned to 64 bytes, counts live bytes.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/status.h"

namespace tmoe {

/** The least multiple of `to` that is not below n. */
inline constexpr uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

/** A count of bytes, and the greatest that it has been: no moment between two looks at it is missed. Any thread. */
class LiveBytes {
  public:
    void operator+=(int64_t bytes) {
        const int64_t sum = now_.fetch_add(bytes) + bytes;
        int64_t peak = peak_.load();
        while (sum > peak && !peak_.compare_exchange_weak(peak, sum)) {
        }
    }
    void operator-=(int64_t bytes) { now_ -= bytes; }
    int64_t load() const { return now_.load(); }
    operator int64_t() const { return load(); }
    /** The greatest since the last restart. */
    int64_t peak() const { return peak_.load(); }
    int64_t restart_peak() { return peak_.exchange(now_.load()); }

  private:
    std::atomic<int64_t> now_{0}, peak_{0};
};

/** What the addon holds now; `tiered-moe` tests compare these with a baseline. */
struct Counters {
    LiveBytes live_bytes;
    std::atomic<int64_t> live_handles{0};
    std::atomic<int64_t> open_files{0};
    std::atomic<int64_t> active_jobs{0};
};
Counters& counters();

/** Bytes that this process may still take: the machine's MemAvailable, or less where a cgroup sets a limit. */
int64_t available_memory();

/**
 * Memory that the system has granted and nobody uses yet: it counts in the limits of the system (RLIMIT_DATA, strict overcommit) so that whoever
 * is given a part of it afterwards finds as much. No byte of it is touched: it is neither resident nor live. One thread at a time.
 */
class Reservation {
  public:
    Reservation() = default;
    ~Reservation() { shrink(0); }
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;

    uint64_t bytes() const { return bytes_; }
    /** Grows or shrinks. RESOURCE_MEMORY_EXHAUSTED {required, available}; then nothing has changed. Shrinking never fails. */
    Status resize(uint64_t bytes);

  private:
    struct Range {
        uint8_t* base;
        size_t bytes;
    };
    void shrink(uint64_t bytes);
    std::vector<Range> ranges_;
    uint64_t bytes_ = 0;
};

/** An owned, zero-filled block of memory, aligned to 64 bytes (large blocks to huge pages where the system has them). */
class Buffer {
  public:
    Buffer() = default;
    ~Buffer() { release(); }
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    /** Replaces the block by one of `bytes`. RESOURCE_MEMORY_EXHAUSTED {required, available} when there is none. */
    Status allocate(size_t bytes);
    /** The same where the block has fewer than `bytes`; a larger one stays as it is. */
    Status reserve(size_t bytes) { return size_ >= bytes ? Status() : allocate(bytes); }
    void release();

    size_t size() const { return size_; }
    uint8_t* data() { return data_; }
    const uint8_t* data() const { return data_; }
    template <class T> T* as() { return reinterpret_cast<T*>(data_); }
    template <class T> const T* as() const { return reinterpret_cast<const T*>(data_); }

  private:
    void swap(Buffer& other) {
        uint8_t* data = data_;
        const size_t size = size_;
        data_ = other.data_;
        size_ = other.size_;
        other.data_ = data;
        other.size_ = size;
    }
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace tmoe
