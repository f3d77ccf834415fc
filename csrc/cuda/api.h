// What the rest of csrc/cuda asks of a device: memory, copies, streams, events, launches. api.cu does it with the CUDA runtime, host/api.cpp
// with host memory and the emulation. Every failure is a status: CUDA_DEVICE_FAILED {device, detail}, GPU_VRAM_EXHAUSTED {required, available}.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <tuple>

#include "core/memory.h"
#include "core/status.h"

// Host code beside nvcc's has nothing to do with kernels.
#if defined(__CUDACC__) || !defined(TMOE_CUDA_DEVICE)
#define TMOE_CUDA_KERNELS
#include "cuda/device.h"
#endif

namespace tmoe {
namespace cuda {

struct DeviceFacts {
    int ordinal = 0;
    std::string name;
    int major = 0, minor = 0;          ///< compute capability
    uint64_t memory_bytes = 0;
    bool emulated = false;
    /** True where the warp's matrix instructions on int8 are there. */
    bool has_mma() const { return major >= 8; }
};

/** Selects a device for this thread and describes it. CUDA_DEVICE_FAILED where there is no driver or no such device. */
Status open_device(int ordinal, DeviceFacts& out);
/** Bytes of device memory that nobody has. */
Status free_memory(uint64_t& out);

/** Device and pinned memory that this process holds. */
struct DeviceCounters {
    LiveBytes device_bytes, pinned_bytes;
    std::atomic<int64_t> buffers{0};             ///< of device memory
    std::atomic<uint64_t> launches{0}, copies{0}, wait_nanoseconds{0};
};
DeviceCounters& device_counters();

/** Blocks of a launch. Nothing is launched where one of them is 0. */
struct Grid {
    size_t x = 1, y = 1, z = 1;
};

/** Work in order, beside that of other streams. */
class Stream {
  public:
    Stream() = default;
    ~Stream();
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    Status open();
    /** Until all that was asked for has been done; reports what failed of it. */
    Status wait();
    Status to_device(void* to, const void* from, size_t bytes);
    Status to_host(void* to, const void* from, size_t bytes);
    Status on_device(void* to, const void* from, size_t bytes);
    Status fill(void* to, uint8_t value, size_t bytes);
    /** What comes after this waits for all that `other` was asked for so far. */
    Status after(Stream& other);
    void* handle() const { return handle_; }

  private:
    void* handle_ = nullptr;
    void* event_ = nullptr;
};

/** An owned block of device memory, aligned to 256 bytes; its content is undefined. */
class DeviceBuffer {
  public:
    DeviceBuffer() = default;
    ~DeviceBuffer() { release(); }
    DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
    DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
        swap(other);
        return *this;
    }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;
    /** Replaces the block. GPU_VRAM_EXHAUSTED {required, available}. */
    Status allocate(size_t bytes);
    /** The same where the block is smaller. */
    Status reserve(size_t bytes) { return size_ >= bytes ? Status() : allocate(bytes); }
    void release();
    size_t size() const { return size_; }
    uint8_t* data() const { return data_; }
    template <class T> T* as() const { return reinterpret_cast<T*>(data_); }

  private:
    void swap(DeviceBuffer& other) {
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

/** The same of host memory that copies reach while the host goes on. RESOURCE_MEMORY_EXHAUSTED {required}. */
class PinnedBuffer {
  public:
    PinnedBuffer() = default;
    ~PinnedBuffer() { release(); }
    PinnedBuffer(const PinnedBuffer&) = delete;
    PinnedBuffer& operator=(const PinnedBuffer&) = delete;
    Status allocate(size_t bytes);
    Status reserve(size_t bytes) { return size_ >= bytes ? Status() : allocate(bytes); }
    void release();
    size_t size() const { return size_; }
    uint8_t* data() const { return data_; }
    template <class T> T* as() const { return reinterpret_cast<T*>(data_); }

  private:
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

/** The status of the launch just made. */
Status launched(const char* name);
/** One grid of an emulated launch; `body` is one thread's. */
Status emulate(const char* name, Stream& stream, Grid grid, unsigned threads, size_t shared_bytes, std::function<void()> body);

inline constexpr size_t kMostGridX = 0x7fffffff, kMostGridYZ = 65535, kMostShared = 48 * 1024;

inline Status check_launch(const char* name, Grid grid, size_t shared_bytes) {
    if (grid.x <= kMostGridX && grid.y <= kMostGridYZ && grid.z <= kMostGridYZ && shared_bytes <= kMostShared) return {};
    return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, format("%s: a launch of %zu × %zu × %zu blocks with %zu bytes", name, grid.x, grid.y, grid.z, shared_bytes));
}

#if defined(TMOE_CUDA_KERNELS)
/** Runs kernel(arguments...) on a grid of blocks of `threads` threads (a multiple of 32). */
template <class... P, class... A>
Status launch(const char* name, Stream& stream, Grid grid, unsigned threads, size_t shared_bytes, void (*kernel)(P...), const A&... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return {};
    TMOE_RETURN_IF_ERROR(check_launch(name, grid, shared_bytes));
#if defined(__CUDACC__)
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
    kernel<<<blocks, threads, shared_bytes, static_cast<cudaStream_t>(stream.handle())>>>(arguments...);
    return launched(name);
#else
    // Arguments are copied, as a launch does: it may run later.
    return emulate(name, stream, grid, threads, shared_bytes, [kernel, given = std::make_tuple(static_cast<P>(arguments)...)] { std::apply(kernel, given); });
#endif
}
#endif

}  // namespace cuda
}  // namespace tmoe
