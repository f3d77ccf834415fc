// The device of a host build: heap memory, copies at once, launches by the emulation.
#include "cuda/api.h"

#include <new>

namespace tmoe {
namespace cuda {

namespace {

uint8_t* take(size_t bytes) { return static_cast<uint8_t*>(::operator new(bytes ? bytes : 1, std::align_val_t{256}, std::nothrow)); }
void give(uint8_t* memory) { ::operator delete(memory, std::align_val_t{256}); }

constexpr uint64_t kDeviceMemory = uint64_t{1} << 34;   // what the emulated device has

}  // namespace

DeviceCounters& device_counters() {
    static DeviceCounters all;
    return all;
}

Status open_device(int ordinal, DeviceFacts& out) {
    if (ordinal != 0) return Status(StatusCode::CUDA_DEVICE_FAILED, format("there is no CUDA device %d; there are 1", ordinal)).with("device", ordinal).with("devices", 1);
    out = {};
    out.name = "host emulation";
    out.major = 8;
    out.memory_bytes = kDeviceMemory;
    out.emulated = true;
    return {};
}

Status free_memory(uint64_t& out) {
    const auto held = static_cast<uint64_t>(device_counters().device_bytes.load());
    out = kDeviceMemory > held ? kDeviceMemory - held : 0;
    return {};
}

Stream::~Stream() = default;
Status Stream::open() { return {}; }
Status Stream::wait() { return {}; }
Status Stream::to_device(void* to, const void* from, size_t bytes) {
    device_counters().copies++;
    return on_device(to, from, bytes);
}
Status Stream::to_host(void* to, const void* from, size_t bytes) {
    device_counters().copies++;
    return on_device(to, from, bytes);
}
Status Stream::on_device(void* to, const void* from, size_t bytes) {
    if (bytes) memcpy(to, from, bytes);
    return {};
}
Status Stream::fill(void* to, uint8_t value, size_t bytes) {
    if (bytes) memset(to, value, bytes);
    return {};
}
Status Stream::after(Stream&) { return {}; }

Status DeviceBuffer::allocate(size_t bytes) {
    release();
    uint64_t left = 0;
    TMOE_RETURN_IF_ERROR(free_memory(left));
    data_ = bytes <= left ? take(bytes) : nullptr;
    if (!data_) {
        return Status(StatusCode::GPU_VRAM_EXHAUSTED, format("%zu bytes of GPU memory are needed, %llu are free", bytes, static_cast<unsigned long long>(left)))
            .with("required", static_cast<double>(bytes))
            .with("available", static_cast<double>(left))
            .with("device", 0);
    }
    memset(data_, 0xa5, bytes);  // undefined, as on a device
    size_ = bytes;
    device_counters().device_bytes += static_cast<int64_t>(bytes);
    return {};
}

void DeviceBuffer::release() {
    if (!data_) return;
    give(data_);
    device_counters().device_bytes -= static_cast<int64_t>(size_);
    data_ = nullptr;
    size_ = 0;
}

Status PinnedBuffer::allocate(size_t bytes) {
    release();
    data_ = take(bytes);
    if (!data_) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("%zu bytes of pinned memory are not to be had", bytes)).with("required", static_cast<double>(bytes));
    size_ = bytes;
    device_counters().pinned_bytes += static_cast<int64_t>(bytes);
    return {};
}

void PinnedBuffer::release() {
    if (!data_) return;
    give(data_);
    device_counters().pinned_bytes -= static_cast<int64_t>(size_);
    data_ = nullptr;
    size_ = 0;
}

Status emulate(const char* name, Grid grid, unsigned threads, size_t shared_bytes, void (*body)(void*), void* context) {
    device_counters().launches++;
    const host::Index blocks = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z)};
    const char* fault = host::run(blocks, threads, shared_bytes, body, context);
    if (!fault) return {};
    return Status(StatusCode::CUDA_DEVICE_FAILED, format("%s: %s", name, fault)).with("device", 0).with("detail", fault);
}

}  // namespace cuda
}  // namespace tmoe
