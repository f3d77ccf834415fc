// What a thread of a pool asks memory for while it waits for the others.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/prefetch.h"

namespace tmoe {

struct Span {
    const uint8_t* data = nullptr;
    size_t bytes = 0;
};

/**
 * The memory that one thread will probably read next. The pool's caller sets it while the thread may look at it: what is half of one list and
 * half of another costs a needless hint, for nothing is read, and an address may have gone.
 */
class alignas(64) NextReads {
  public:
    /** `part(n)` is the n-th span; one without bytes ends them. */
    template <class Fn> void set(Fn part) {
        size_t left = kMostBytes;
        for (size_t n = 0; n < kSpans; n++) {
            const Span span = left > 0 ? part(n) : Span{};
            const size_t bytes = span.bytes < left ? span.bytes : left;
            data_[n].store(span.data, std::memory_order_relaxed);
            bytes_[n].store(bytes, std::memory_order_relaxed);
            if (bytes == 0) break;
            left -= bytes;
        }
        version_.fetch_add(1, std::memory_order_release);
    }

    /** Asks for the next few lines; false where all were asked for. The thread itself. */
    bool ask() {
        const uint32_t version = version_.load(std::memory_order_acquire);
        if (version != seen_) seen_ = version, span_ = 0, at_ = 0;
        for (; span_ < kSpans; span_++, at_ = 0) {
            const size_t bytes = bytes_[span_].load(std::memory_order_relaxed);
            if (bytes == 0) break;
            if (at_ >= bytes) continue;
            const uint8_t* data = data_[span_].load(std::memory_order_relaxed) + at_;
            for (size_t line = 0; line < kLines; line++) prefetch_line(data + line * kLine);
            at_ += kLines * kLine;
            return true;
        }
        span_ = kSpans;
        return false;
    }

  private:
    static constexpr size_t kSpans = 16, kLine = 64, kLines = 8;
    static constexpr size_t kMostBytes = size_t{256} << 10;   // of a cache of the thread's own that other data are in as well
    std::atomic<const uint8_t*> data_[kSpans] = {};
    std::atomic<size_t> bytes_[kSpans] = {};
    std::atomic<uint32_t> version_{0};
    // The thread's own.
    alignas(64) uint32_t seen_ = 0;
    size_t span_ = kSpans, at_ = 0;
};

}  // namespace tmoe
