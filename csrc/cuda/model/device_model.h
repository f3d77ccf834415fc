// A model on a CUDA device: its weights, the memory of a step, and slots of experts where these are tiered.
#pragma once
#include "core/held_block.h"
#include "core/model.h"
#include "core/model_device.h"
#include "core/step_sizes.h"
#include "cuda/model/expert_slots.h"
#include "cuda/sample.h"
#include "cuda/model/step_data.h"

namespace tmoe {
namespace cuda {

struct DeviceWeight {
    DType type = DType::F32;
    size_t rows = 0, columns = 0, experts = 1, expert_bytes = 0;
    int exponent = 0;
    DeviceBuffer data;
    MatrixView matrix() const { return {type, rows, columns, data.data()}; }
    ExpertStack stack() const { return {matrix(), expert_bytes}; }
};

/** Offsets of a hierarchical route. */
struct DeviceHser {
    DeviceBuffer tier_groups, group_experts;
};

/** Memory of one step, allocated once per model. */
struct StepMemory {
    std::vector<DeviceBuffer> buffers;   ///< one per plan buffer, [max_batch][width]
    ExpertMemory experts;
    ExpertMemory::Rows activations;
    DeviceBuffer marks;                  ///< [max_batch]: the layer where a value was first not finite
    DeviceBuffer ids, weights;           ///< [routed layers][max_batch · k]
    DeviceBuffer scores24, ranks, states24, probabilities;
    DeviceBuffer offsets, slots, rows, counts, values;
    DeviceBuffer scores;                 ///< of attention
    DeviceBuffer logits, gathered, adjusted, sorted_probabilities, keys, outcomes;
    PinnedBuffer back;                   ///< what comes back at the end

    float* buffer(uint32_t index) const { return buffers[index].as<float>(); }
    Status allocate(const Plan& plan, size_t max_batch);
    /** What `allocate` takes of device memory, at most, with the data of a step. */
    static uint64_t bytes(const Plan& plan, size_t max_batch);

  private:
    struct Block {
        DeviceBuffer* buffer;
        size_t bytes;
    };
    std::vector<Block> blocks(const Plan& plan, const StepSizes& sizes, size_t max_batch);
};

class DeviceModel : public ModelDevice {
  public:
    static Status create(const DeviceFacts& facts, Model& model, const LoadOptions& options, std::unique_ptr<ModelDevice>& out);
    Status take(size_t index, Weight& weight) override;
    Status finish(const std::atomic<bool>* cancel) override;
    DeviceExperts* experts() const override { return slots_ && !slots_->settled() ? slots_.get() : nullptr; }
    Status step(Backend& backend, std::vector<StepItem>& items, const std::atomic<bool>* cancel, StepResult& result) override;

  private:
    friend class Executor;
    DeviceModel(const DeviceFacts& facts, Model& model) : facts_(facts), model_(model) {}

    DeviceFacts facts_;
    Model& model_;
    Stream compute_, copies_;
    /** So many bytes more of KV cache are wanted: what is beyond its share is what slots had. GPU_VRAM_EXHAUSTED {required, available, limit, gpuMemory}. */
    Status make_room(uint64_t missing);

    uint64_t slot_budget_ = 0;                 ///< bytes for experts in slots; 0 = for all of them, and the KV cache takes what there is
    uint64_t kv_share_ = 0, whole_ = 0;        ///< of ExpertOptions: beside the slots, and all of the model's; 0 = no limit
    HeldBlock::Sum kv_held_ = std::make_shared<std::atomic<int64_t>>(0);   ///< pages of all sequences
    CachePolicy policy_ = CachePolicy::Adaptive;
    uint32_t seed_ = 0;                        ///< of the policy
    std::vector<uint8_t> placement_;           ///< of ExpertOptions
    std::vector<DeviceWeight> weights_;
    std::vector<DeviceHser> hser_;             ///< per operation of the plan
    std::vector<int32_t> mark_of_op_;          ///< the layer that a value that is not finite is reported for
    StepMemory memory_;
    StepData data_;
    std::unique_ptr<ExpertSlots> slots_;
};

/** The KV cache of one sequence: pages as on the CPU, in device memory. */
class DeviceSequence : public SequenceDevice {
  public:
    /** `held`: of the model, which counts a page from before it is taken until after it is given back. */
    DeviceSequence(size_t page_bytes, HeldBlock::Sum held) : page_bytes_(page_bytes), held_(std::move(held)) {}
    ~DeviceSequence() override;
    /** Bytes that `reserve` would add. */
    uint64_t missing_bytes(size_t positions) const;
    /** Pages for so many positions. GPU_VRAM_EXHAUSTED. */
    Status reserve(size_t positions);
    const std::vector<DeviceBuffer>& pages() const { return pages_; }

  private:
    size_t page_bytes_;
    HeldBlock::Sum held_;
    std::vector<DeviceBuffer> pages_;
};

}  // namespace cuda
}  // namespace tmoe
