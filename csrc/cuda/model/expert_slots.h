// Experts in slots of device memory, below full residency: which are there is HotExperts' decision (the host's own code), absent ones come from
// the host's store through pinned memory on a stream of their own, while those that are there are computed.
#pragma once
#include <algorithm>
#include <mutex>

#include "core/device_experts.h"
#include "core/store/hot_experts.h"
#include "cuda/expert_matmul.h"
#include "cuda/model/step_data.h"

namespace tmoe {
namespace cuda {

class ExpertSlots : public DeviceExperts {
  public:
    /** As many slots as `bytes` hold; `copies` outlives them. RESOURCE_BUDGET_TOO_SMALL, GPU_VRAM_EXHAUSTED, RESOURCE_MEMORY_EXHAUSTED. */
    static Status create(HotOptions options, std::shared_ptr<ExpertStore> store, uint64_t bytes, Stream& copies, std::unique_ptr<ExpertSlots>& out);
    /** Gives free slots to what can be read, in the order of `placement`, which stands from then on. The errors of `place`, of reading and of the device; CANCELLED. */
    Status fill(const std::vector<uint8_t>& placement, const std::atomic<bool>* cancel);
    bool hold_all() const { return hot_->control().cache().used() == entries(); }
    /** Nothing is decided any more: every expert has a slot for good, and host memory is no longer needed. GPU_VRAM_EXHAUSTED. */
    Status settle();
    bool settled() const { return places_.size() > 0; }
    uint64_t slot_bytes() const { return slot_bytes_; }
    /** Of all slots. On the backend's queue, as what follows. */
    uint64_t bytes() const { return uint64_t{hot_->control().cache().slots()} * slot_bytes_; }
    /** False where a `set_budget` did not find memory for the slots that are left: nothing runs before one has. */
    bool whole() const { return slabs_.back().size() > 0; }

    void begin_step(const StepShape& shape);
    /**
     * One layer: `call` lacks only its stacks' places; ids [count] are the layer's choices. The errors of HotExperts::begin_layer, of reading, and
     * of the device; CANCELLED.
     */
    Status run_layer(uint32_t layer, const int32_t* ids, size_t count, ExpertCall call, const ExpertMemory& memory, const DeviceFacts& device, Stream& compute, StepData& data,
                     const std::atomic<bool>* cancel);

    /** The same where they are settled: the host need not know the choices. */
    Status run_settled(uint32_t layer, ExpertCall call, const ExpertMemory& memory, const DeviceFacts& device, Stream& compute) const;

    Counts counts() const override;
    void whereabouts(std::vector<uint8_t>& in_slot, std::vector<uint8_t>& placement) const override;
    Status set_budget(uint64_t bytes) override;
    Status place(const uint8_t* placement) override;
    Status read_ahead(const uint8_t* wanted) override;

  private:
    static constexpr size_t kStages = 4;
    explicit ExpertSlots(Stream& copies) : copies_(copies) {}
    Status grow_slabs(size_t slots);
    Status shrink_slabs(size_t slots);
    size_t slabs_of(size_t slots) const { return (slots + slab_slots_ - 1) / slab_slots_; }
    size_t slab_bytes(size_t index, size_t slots) const { return std::min(slab_slots_, slots - index * slab_slots_) * slot_bytes_; }
    void drop_from(size_t first);
    Status fetch(uint32_t layer, const std::vector<WaveItem>& items, const std::atomic<bool>* cancel);
    Status read(uint32_t layer, std::vector<WaveItem>& absent, const std::atomic<bool>* cancel);
    /** Reads what was given a slot between two steps; what cannot be read is of no consequence unless it is `needed`: it is read when it is demanded. */
    Status bring(const std::vector<WaveItem>& admitted, bool needed, const std::atomic<bool>* cancel);
    Status compute(const std::vector<WaveItem>& items, bool admitted, ExpertCall& call, const ExpertMemory& memory, const DeviceFacts& device, Stream& stream, StepData& data);
    void set_stacks(uint32_t layer, ExpertCall& call) const;
    uint8_t* slot(size_t index) const { return slabs_[index / slab_slots_].data() + index % slab_slots_ * slot_bytes_; }
    size_t entries() const { return hot_->options().layers * hot_->options().experts; }

    std::shared_ptr<ExpertStore> store_;
    std::vector<ExpertLayout> layouts_;        ///< per layer
    Stream& copies_;
    mutable std::mutex decisions_;             ///< hot_ and the counts below: `counts` and `whereabouts` are asked for by any thread
    std::unique_ptr<HotExperts> hot_;
    uint64_t uploads_ = 0, uploaded_bytes_ = 0, wait_nanoseconds_ = 0;
    std::vector<DeviceBuffer> slabs_;          ///< of slab_slots_ each
    DeviceBuffer places_;                      ///< once settled: each expert's slot, [layers][experts] of pointers
    PinnedBuffer stages_;
    size_t slot_bytes_ = 0, slab_slots_ = 1, next_stage_ = 0;
};

}  // namespace cuda
}  // namespace tmoe
