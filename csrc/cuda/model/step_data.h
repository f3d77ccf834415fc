// What a step sends to the device: pieces are copied to pinned memory, so that the copy runs while the host goes on, and stand in device memory
// until the next step begins.
#pragma once
#include <cstring>
#include <memory>
#include <vector>

#include "cuda/api.h"

namespace tmoe {
namespace cuda {

class StepData {
  public:
    /** A new step; the last one's pieces are no longer needed and their copies have ended. */
    void begin() { chunk_ = used_ = 0; }

    /** A copy of from[n] on the device. GPU_VRAM_EXHAUSTED, RESOURCE_MEMORY_EXHAUSTED. */
    template <class T> Status send(Stream& stream, const T* from, size_t n, T*& out) {
        const size_t bytes = n * sizeof(T);
        uint8_t *host = nullptr, *device = nullptr;
        TMOE_RETURN_IF_ERROR(take(bytes, host, device));
        if (bytes) memcpy(host, from, bytes);
        out = reinterpret_cast<T*>(device);
        return stream.to_device(device, host, bytes);
    }
    template <class T> Status send(Stream& stream, const std::vector<T>& from, T*& out) { return send(stream, from.data(), from.size(), out); }

    static constexpr size_t kChunkBytes = size_t{1} << 20;

  private:
    struct Chunk {
        PinnedBuffer host;
        DeviceBuffer device;
    };

    Status take(size_t bytes, uint8_t*& host, uint8_t*& device) {
        while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_]->host.size()) chunk_++, used_ = 0;
        if (chunk_ == chunks_.size()) {
            auto chunk = std::make_unique<Chunk>();
            TMOE_RETURN_IF_ERROR(chunk->host.allocate(bytes > kChunkBytes ? bytes : kChunkBytes));
            TMOE_RETURN_IF_ERROR(chunk->device.allocate(chunk->host.size()));
            chunks_.push_back(std::move(chunk));
            used_ = 0;
        }
        host = chunks_[chunk_]->host.data() + used_;
        device = chunks_[chunk_]->device.data() + used_;
        used_ += (bytes + 255) / 256 * 256;
        return {};
    }

    std::vector<std::unique_ptr<Chunk>> chunks_;
    size_t chunk_ = 0, used_ = 0;
};

}  // namespace cuda
}  // namespace tmoe
