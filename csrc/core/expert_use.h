// How often each expert is used: counted at the end of each step on the backend's queue, read from any thread.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "core/status.h"

namespace tmoe {

class ExpertUse {
  public:
    /** `experts`: of all layers together. RESOURCE_MEMORY_EXHAUSTED. */
    Status allocate(size_t experts) {
        rows_.reset(new (std::nothrow) std::atomic<uint64_t>[experts]());
        last_.reset(new (std::nothrow) std::atomic<uint64_t>[experts]());
        count_ = experts;
        return rows_ && last_ ? Status() : Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "no memory for the counts of experts");
    }

    /** A step is over, in which rows[i] tokens went to expert i. */
    void add(const std::vector<uint32_t>& rows) {
        const uint64_t step = steps_.load(std::memory_order_relaxed) + 1;
        for (size_t i = 0; i < count_ && i < rows.size(); i++) {
            if (rows[i] == 0) continue;
            rows_[i].fetch_add(rows[i], std::memory_order_relaxed);
            last_[i].store(step, std::memory_order_relaxed);
        }
        steps_.store(step, std::memory_order_release);
    }

    size_t count() const { return count_; }
    uint64_t steps() const { return steps_.load(std::memory_order_acquire); }
    /** Tokens that went to the expert since the load. */
    uint64_t rows(size_t index) const { return rows_[index].load(std::memory_order_relaxed); }
    /** The step that used it last, counted from 1; 0 = none did. */
    uint64_t last_step(size_t index) const { return last_[index].load(std::memory_order_relaxed); }

  private:
    std::unique_ptr<std::atomic<uint64_t>[]> rows_, last_;
    std::atomic<uint64_t> steps_{0};
    size_t count_ = 0;
};

}  // namespace tmoe
