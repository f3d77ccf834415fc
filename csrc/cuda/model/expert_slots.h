// Experts in slots of device memory, below full residency: which are there is HotExperts' decision (the host's own code), absent ones come from
// the host's store through pinned memory on a stream of their own, while those that are there are computed.
#pragma once
#include "core/store/hot_experts.h"
#include "cuda/expert_matmul.h"
#include "cuda/model/step_data.h"

namespace tmoe {
namespace cuda {

class ExpertSlots {
  public:
    /** As many slots as `bytes` hold. RESOURCE_BUDGET_TOO_SMALL, GPU_VRAM_EXHAUSTED, RESOURCE_MEMORY_EXHAUSTED. */
    static Status create(HotOptions options, std::shared_ptr<ExpertStore> store, uint64_t bytes, std::unique_ptr<ExpertSlots>& out);

    void begin_step(const StepShape& shape) { hot_->begin_step(shape); }
    /**
     * One layer: `call` lacks only its stacks' places; ids [count] are the layer's choices. The errors of HotExperts::begin_layer, of reading, and
     * of the device; CANCELLED.
     */
    Status run_layer(uint32_t layer, const int32_t* ids, size_t count, ExpertCall call, const ExpertMemory& memory, const DeviceFacts& device, Stream& compute, Stream& copies, StepData& data,
                     const std::atomic<bool>* cancel);
    const CacheCounts& counts() const { return hot_->control().cache().counts(); }
    size_t slots() const { return hot_->options().slots; }

  private:
    static constexpr size_t kStages = 4;
    Status fetch(uint32_t layer, const std::vector<WaveItem>& items, Stream& copies, const std::atomic<bool>* cancel);
    Status compute(const std::vector<WaveItem>& items, bool admitted, ExpertCall& call, const ExpertMemory& memory, const DeviceFacts& device, Stream& stream, StepData& data);
    uint8_t* slot(size_t index) const { return slab_.data() + index * slot_bytes_; }

    std::shared_ptr<ExpertStore> store_;
    std::unique_ptr<HotExperts> hot_;
    DeviceBuffer slab_;
    PinnedBuffer stages_;
    size_t slot_bytes_ = 0, next_stage_ = 0;
};

}  // namespace cuda
}  // namespace tmoe
