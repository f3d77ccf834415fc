#include "cuda/api.h"

#include <cuda_runtime.h>

#include <chrono>

namespace tmoe {
namespace cuda {

namespace {

/** Compiled for every architecture that the others are. */
__global__ void any_kernel() {}

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
    cudaFuncAttributes kernel = {};
    const cudaError_t asked = cudaFuncGetAttributes(&kernel, any_kernel);
    const bool no_code = asked == cudaErrorNoKernelImageForDevice || asked == cudaErrorInvalidDeviceFunction;
    const std::string cannot = format("%s (compute capability %d.%d) cannot %s", about.name, about.major, about.minor, no_code ? "run this build (CMAKE_CUDA_ARCHITECTURES)" : "be used");
    TMOE_RETURN_IF_ERROR(failed(cannot.c_str(), asked));
    out.ordinal = ordinal;
    out.name = about.name;
    out.major = about.major;
    out.minor = about.minor;
    out.memory_bytes = about.totalGlobalMem;
    out.emulated = false;
    out.mma = about.major >= 8 && kernel.ptxVersion >= 80;
    return {};
}

Status free_memory(int ordinal, uint64_t& out) {
    size_t left = 0, all = 0;
    TMOE_RETURN_IF_ERROR(failed("the device cannot be opened", cudaSetDevice(ordinal)));
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

Status DeviceMemory::take(size_t bytes, uint8_t*& out) {
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        uint64_t left = 0;
        TMOE_RETURN_IF_ERROR(free_memory(current_device(), left));
        return Status(StatusCode::GPU_VRAM_EXHAUSTED, format("%zu bytes of GPU memory are needed, %llu are free", bytes, static_cast<unsigned long long>(left)))
            .with("required", static_cast<double>(bytes))
            .with("available", static_cast<double>(left))
            .with("device", current_device());
    }
    TMOE_RETURN_IF_ERROR(failed("no device memory", error));
    out = static_cast<uint8_t*>(memory);
    return {};
}
void DeviceMemory::give(uint8_t* block) { cudaFree(block); }

Status PinnedMemory::take(size_t bytes, uint8_t*& out) {
    void* memory = nullptr;
    const cudaError_t error = cudaMallocHost(&memory, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("%zu bytes of pinned memory are not to be had", bytes)).with("required", static_cast<double>(bytes));
    }
    TMOE_RETURN_IF_ERROR(failed("no pinned memory", error));
    out = static_cast<uint8_t*>(memory);
    return {};
}
void PinnedMemory::give(uint8_t* block) { cudaFreeHost(block); }

Status launched(const char* name) {
    device_counters().launches++;
    return failed(name, cudaGetLastError());
}

}  // namespace cuda
}  // namespace tmoe
