// Runs one step of a plan on the device. What a step checks, and what becomes of its results, is the CPU executor's own code; the operations
// are launches on one stream, and the host waits once, at the end (with experts in slots: once per layer, for its routes).
#pragma once
#include "core/executor.h"
#include "cuda/model/device_model.h"
#include "cuda/moe.h"

namespace tmoe {
namespace cuda {

class Executor : public tmoe::Executor {
  public:
    Executor(Model& model, DeviceModel& device, Backend& backend, std::vector<StepItem>& items, const std::atomic<bool>* cancel, StepResult& result)
        : tmoe::Executor(model, backend, items, cancel, result), device_(device), memory_(device.memory_), stream_(device.compute_) {}
    Status run();

  private:
    Status run_ops();
    Status run_op(size_t index);
    Status send_step();
    Status embed(const PlanOp& op);
    Status rms_norm(const PlanOp& op, Marks marks);
    Status matmul(const PlanOp& op, Marks marks);
    Status rope(const PlanOp& op, size_t index);
    Status attention(const PlanOp& op);
    Status gated(const PlanOp& op, Marks marks);
    Status head_matmul(const PlanOp& op, Marks marks);
    Status route(const PlanOp& op, size_t index);
    Status replace_forced();
    Status experts(const PlanOp& op, Marks marks);
    Status logits(const PlanOp& op, Marks marks);
    Status read_back();
    /** Quantises rows of `from` where a weight wants it, and describes them. */
    Status activations(const float* from, size_t rows, size_t columns, bool quantised, Marks marks, DeviceActivations& out);
    const float* vector(uint32_t tensor) const { return tensor == kNoTensor ? nullptr : device_.weights_[tensor].data.as<float>(); }
    int32_t* layer_ids(size_t layer) const { return memory_.ids.as<int32_t>() + layer * tokens_ * model_.routing().k; }
    float* layer_weights(size_t layer) const { return memory_.weights.as<float>() + layer * tokens_ * model_.routing().k; }

    DeviceModel& device_;
    StepMemory& memory_;
    Stream& stream_;
    int32_t* token_ids_ = nullptr;
    uint32_t *token_positions_ = nullptr, *first_pages_ = nullptr;
    uint8_t** pages_ = nullptr;
    std::vector<float*> cosines_, sines_;      ///< per rope table
    const uint8_t** layer_masks_ = nullptr;    ///< [layers][tokens], or null
    std::vector<uint32_t> sampled_;            ///< items whose outcome is in `outcomes`, in order
};

}  // namespace cuda
}  // namespace tmoe
