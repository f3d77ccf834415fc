// The seam for a device that computes steps instead of the CPU: it has the weights, the KV caches and the experts in use. The CPU's addon has
// none (core/no_device.cpp); an addon for a device links another `attach_device`.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/device_experts.h"

namespace tmoe {

struct Backend;
struct LoadOptions;
struct Plan;
struct Weight;
class KernelDevice;
class Model;
struct StepItem;
struct StepResult;

/** One model on a device. Everything is called on the backend's queue. */
class ModelDevice {
  public:
    virtual ~ModelDevice() = default;
    /** Weight `index` of the plan has been read: it moves to the device, and its host memory is released. GPU_VRAM_EXHAUSTED, CUDA_DEVICE_FAILED. */
    virtual Status take(size_t index, Weight& weight) = 0;
    /** Every weight is there: memory of steps of max_batch tokens, and of experts. */
    virtual Status finish(const std::atomic<bool>* cancel) = 0;
    /** Null where every expert stays on the device. */
    virtual DeviceExperts* experts() const = 0;
    /** Model::step. */
    virtual Status step(Backend& backend, std::vector<StepItem>& items, const std::atomic<bool>* cancel, StepResult& result) = 0;
};

/** A sequence's KV cache on a device. */
class SequenceDevice {
  public:
    virtual ~SequenceDevice() = default;
};

/** A device of a backend. */
class BackendDevice {
  public:
    virtual ~BackendDevice() = default;
    virtual std::string name() const = 0;
    struct Counts {
        uint64_t free_bytes = 0;            ///< that nobody has
        uint64_t held_bytes = 0, buffers = 0;   ///< this process's
        uint64_t launches = 0, wait_nanoseconds = 0;
    };
    /** Any thread. CUDA_DEVICE_FAILED. */
    virtual Status counts(Counts& out) const = 0;
    /** Device memory of steps of so many tokens, at most. The plan is valid. */
    virtual uint64_t step_bytes(const Plan& plan, size_t max_batch) const = 0;
    /** The kernel-level interface; on the backend's queue. */
    virtual KernelDevice& kernels() = 0;
    virtual Status create_model(Model& model, const LoadOptions& options, std::unique_ptr<ModelDevice>& out) = 0;
};

/** Gives a new backend its device, by its number, where this addon is for one. CUDA_DEVICE_FAILED. */
Status attach_device(Backend& backend, int ordinal);

}  // namespace tmoe
