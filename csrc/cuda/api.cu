#include "cuda/api.h"

#include <cuda_runtime.h>

#include <chrono>

namespace tmoe {
namespace cuda {

namespace {

const char* action_for(cudaError_t error) {
    switch (error) {
        case cudaErrorInsufficientDriver:
        case cudaErrorNoDevice: return "; install the NVIDIA driver (version 580 or newer), and see that nvidia-smi lists a device";
        default: return "";
    }
}

int current_device() {
    int device = 0;
    return cudaGetDevice(&device) == cudaSuccess ? device : -1;
}

Status failed(const char* what, cudaError_t error) {
    if (error == cudaSuccess) return {};
    cudaGetLastError();  // so that the next call does not report it again
    return Status(StatusCode::CUDA_DEVICE_FAILED, format("%s: %s%s", what, cudaGetErrorString(error), action_for(error)))
        .with("device", current_device())
        .with("detail", cudaGetErrorName(error));
}

cudaStream_t stream_of(void* handle) { return static_cast<cudaStream_t>(handle); }

}  // namespace

DeviceCounters& device_counters() {
    static DeviceCounters all;
    return all;
}

Status open_device(int ordinal, DeviceFacts& out) {
    int count = 0;
    TMOE_RETURN_IF_ERROR(failed("no CUDA device can be used", cudaGetDeviceCount(&count)));
    if (ordinal < 0 || ordinal >= count) {
        return Status(StatusCode::CUDA_DEVICE_FAILED, format("there is no CUDA device %d; there are %d", ordinal, count)).with("device", ordinal).with("devices", count);
    }
    TMOE_RETURN_IF_ERROR(failed("the CUDA device cannot be opened", cudaSetDevice(ordinal)));
    cudaDeviceProp about;
    TMOE_RETURN_IF_ERROR(failed("the CUDA device cannot be asked", cudaGetDeviceProperties(&about, ordinal)));
    out.ordinal = ordinal;
    out.name = about.name;
    out.major = about.major;
    out.minor = about.minor;
    out.memory_bytes = about.totalGlobalMem;
    out.emulated = false;
    return {};
}

Status free_memory(uint64_t& out) {
    size_t left = 0, all = 0;
    TMOE_RETURN_IF_ERROR(failed("the device cannot be asked for its memory", cudaMemGetInfo(&left, &all)));
    out = left;
    return {};
}

Status Stream::open() {
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;
    TMOE_RETURN_IF_ERROR(failed("no stream", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)));
    handle_ = stream;
    TMOE_RETURN_IF_ERROR(failed("no event", cudaEventCreateWithFlags(&event, cudaEventDisableTiming)));
    event_ = event;
    return {};
}

Stream::~Stream() {
    if (event_) cudaEventDestroy(static_cast<cudaEvent_t>(event_));
    if (handle_) cudaStreamDestroy(stream_of(handle_));
}

Status Stream::wait() {
    const auto began = std::chrono::steady_clock::now();
    const cudaError_t error = cudaStreamSynchronize(stream_of(handle_));
    device_counters().wait_nanoseconds += static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - began).count());
    return failed("the device failed", error);
}

Status Stream::to_device(void* to, const void* from, size_t bytes) {
    device_counters().copies++;
    return bytes ? failed("copy to the device", cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_of(handle_))) : Status();
}
Status Stream::to_host(void* to, const void* from, size_t bytes) {
    device_counters().copies++;
    return bytes ? failed("copy from the device", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_of(handle_))) : Status();
}
Status Stream::on_device(void* to, const void* from, size_t bytes) {
    return bytes ? failed("copy on the device", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(handle_))) : Status();
}
Status Stream::fill(void* to, uint8_t value, size_t bytes) { return bytes ? failed("fill", cudaMemsetAsync(to, value, bytes, stream_of(handle_))) : Status(); }

Status Stream::after(Stream& other) {
    const cudaEvent_t event = static_cast<cudaEvent_t>(other.event_);
    TMOE_RETURN_IF_ERROR(failed("no event", cudaEventRecord(event, stream_of(other.handle_))));
    return failed("no event", cudaStreamWaitEvent(stream_of(handle_), event, 0));
}

Status DeviceBuffer::allocate(size_t bytes) {
    release();
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        uint64_t left = 0;
        TMOE_RETURN_IF_ERROR(free_memory(left));
        return Status(StatusCode::GPU_VRAM_EXHAUSTED, format("%zu bytes of GPU memory are needed, %llu are free", bytes, static_cast<unsigned long long>(left)))
            .with("required", static_cast<double>(bytes))
            .with("available", static_cast<double>(left))
            .with("device", current_device());
    }
    TMOE_RETURN_IF_ERROR(failed("no device memory", error));
    data_ = static_cast<uint8_t*>(memory);
    size_ = bytes;
    device_counters().device_bytes += static_cast<int64_t>(bytes);
    device_counters().buffers++;
    return {};
}

void DeviceBuffer::release() {
    if (!data_) return;
    cudaFree(data_);
    device_counters().device_bytes -= static_cast<int64_t>(size_);
    device_counters().buffers--;
    data_ = nullptr;
    size_ = 0;
}

Status PinnedBuffer::allocate(size_t bytes) {
    release();
    void* memory = nullptr;
    const cudaError_t error = cudaMallocHost(&memory, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("%zu bytes of pinned memory are not to be had", bytes)).with("required", static_cast<double>(bytes));
    }
    TMOE_RETURN_IF_ERROR(failed("no pinned memory", error));
    data_ = static_cast<uint8_t*>(memory);
    size_ = bytes;
    device_counters().pinned_bytes += static_cast<int64_t>(bytes);
    return {};
}

void PinnedBuffer::release() {
    if (!data_) return;
    cudaFreeHost(data_);
    device_counters().pinned_bytes -= static_cast<int64_t>(size_);
    data_ = nullptr;
    size_ = 0;
}

Status launched(const char* name) {
    device_counters().launches++;
    return failed(name, cudaGetLastError());
}

}  // namespace cuda
}  // namespace tmoe
