// What the rest of csrc/cuda asks of a device: memory, copies, streams, events, launches. api.cu does it with the CUDA runtime, host/api.cpp
// with host memory and the emulation. Every failure is a status: CUDA_DEVICE_FAILED {device, detail}, GPU_VRAM_EXHAUSTED {required, available}.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <utility>

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
    bool mma = false;                  ///< the warp's matrix instructions on int8 are there, and this build has the code for them
};

/** Selects a device for this thread and describes it. CUDA_DEVICE_FAILED where there is no driver or no such device. */
Status open_device(int ordinal, DeviceFacts& out);
/** Bytes of a device's memory that nobody has. Any thread. */
Status free_memory(int ordinal, uint64_t& out);

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

/** Memory of the device, aligned to 256 bytes. */
struct DeviceMemory {
    /** A block of undefined content; one of 0 bytes too is somewhere. GPU_VRAM_EXHAUSTED {required, available}. */
    static Status take(size_t bytes, uint8_t*& out);
    static void give(uint8_t* block);
    /** Counts a block that is taken (1) or given back (-1). */
    static void count(int64_t blocks, size_t bytes) {
        device_counters().device_bytes += blocks * static_cast<int64_t>(bytes);
        device_counters().buffers += blocks;
    }
};

/** Memory of the host that copies reach while the host goes on. */
struct PinnedMemory {
    /** RESOURCE_MEMORY_EXHAUSTED {required}. */
    static Status take(size_t bytes, uint8_t*& out);
    static void give(uint8_t* block);
    static void count(int64_t blocks, size_t bytes) { device_counters().pinned_bytes += blocks * static_cast<int64_t>(bytes); }
};

/** An owned block of either. */
template <class Memory> class OwnedBlock {
  public:
    OwnedBlock() = default;
    ~OwnedBlock() { release(); }
    OwnedBlock(OwnedBlock&& other) noexcept { swap(other); }
    OwnedBlock& operator=(OwnedBlock&& other) noexcept {
        swap(other);
        return *this;
    }
    OwnedBlock(const OwnedBlock&) = delete;
    OwnedBlock& operator=(const OwnedBlock&) = delete;

    /** Replaces the block. As `take`; then there is none. */
    Status allocate(size_t bytes) {
        release();
        TMOE_RETURN_IF_ERROR(Memory::take(bytes, data_));
        size_ = bytes;
        Memory::count(1, bytes);
        return {};
    }
    /** The same where the block is smaller. */
    Status reserve(size_t bytes) { return size_ >= bytes ? Status() : allocate(bytes); }
    void release() {
        if (!data_) return;
        Memory::give(data_);
        Memory::count(-1, size_);
        data_ = nullptr;
        size_ = 0;
    }
    size_t size() const { return size_; }
    uint8_t* data() const { return data_; }
    template <class T> T* as() const { return reinterpret_cast<T*>(data_); }

  private:
    void swap(OwnedBlock& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
    }
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};
using DeviceBuffer = OwnedBlock<DeviceMemory>;
using PinnedBuffer = OwnedBlock<PinnedMemory>;

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
