// Device memory of one call on host memory: what goes there, what comes back. The first failure sticks; nothing is done after it.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "cuda/api.h"

namespace tmoe {
namespace cuda {

class Workspace {
  public:
    /** CUDA_DEVICE_FAILED. */
    Status open(int ordinal) {
        TMOE_RETURN_IF_ERROR(open_device(ordinal, device_));
        return stream_.open();
    }
    const DeviceFacts& device() const { return device_; }
    Stream& stream() { return stream_; }

    /** Room for n elements, with undefined content. */
    template <class T> T* room(size_t n) {
        buffers_.emplace_back();
        if (status_.ok()) status_ = buffers_.back().allocate(n * sizeof(T));
        return buffers_.back().as<T>();
    }
    /** The same, holding what the host has. */
    template <class T> T* in(const T* from, size_t n) {
        T* at = room<T>(n);
        if (status_.ok()) status_ = stream_.to_device(at, from, n * sizeof(T));
        return at;
    }
    /** Room whose content the host gets at the end. */
    template <class T> T* out(T* to, size_t n) {
        T* at = room<T>(n);
        results_.push_back({to, at, n * sizeof(T)});
        return at;
    }
    /** Both. */
    template <class T> T* in_out(T* both, size_t n) {
        T* at = in(static_cast<const T*>(both), n);
        results_.push_back({both, at, n * sizeof(T)});
        return at;
    }
    /** One flag a row, all unset (see Marks); `first_marked` after the end. */
    uint32_t* marks(size_t rows) {
        marks_.assign(rows, UINT32_MAX);
        return in_out(marks_.data(), rows);
    }
    /** The first marked row, or how many there are. */
    size_t first_marked() const {
        size_t row = 0;
        while (row < marks_.size() && marks_[row] == UINT32_MAX) row++;
        return row;
    }

    const Status& status() const { return status_; }

    /** Gives back what `out` was asked for, waits, and frees everything. */
    Status finish() {
        for (const Result& result : results_) {
            if (status_.ok()) status_ = stream_.to_host(result.to, result.from, result.bytes);
        }
        return end();
    }
    /** After a failure: waits and frees. */
    Status end() {
        const Status waited = stream_.wait();
        if (status_.ok()) status_ = waited;
        results_.clear();
        buffers_.clear();
        return std::exchange(status_, Status());
    }
    /** `finish`, or `end` with the failure of what was launched. */
    Status finish(Status launched) {
        if (launched.ok()) return finish();
        static_cast<void>(end());
        return launched;
    }

  private:
    struct Result {
        void* to;
        const void* from;
        size_t bytes;
    };
    DeviceFacts device_;
    Stream stream_;
    Status status_;
    std::vector<DeviceBuffer> buffers_;
    std::vector<Result> results_;
    std::vector<uint32_t> marks_;
};

}  // namespace cuda
}  // namespace tmoe
