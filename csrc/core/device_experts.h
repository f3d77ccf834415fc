// A model's experts in slots of a device's memory, below full residency: what the rest of the addon asks of them.
#pragma once
#include <vector>

#include "core/status.h"
#include "core/store/expert_store.h"

namespace tmoe {

class DeviceExperts {
  public:
    virtual ~DeviceExperts() = default;

    struct Counts {
        StoreCounts store;                  ///< decisions, bytes and waits of the slots; everything else of the host's store
        std::vector<CacheCounts> layers;
        uint64_t uploads = 0, uploaded_bytes = 0;
    };
    // Any thread:
    virtual Counts counts() const = 0;
    /** Marks those of [layers][experts] that have a slot; placement as Model::place_experts was told. */
    virtual void whereabouts(std::vector<uint8_t>& in_slot, std::vector<uint8_t>& placement) const = 0;

    // On the backend's queue, between two steps:
    /** RESOURCE_BUDGET_TOO_SMALL; GPU_VRAM_EXHAUSTED, where nothing has changed unless it is less than before. */
    virtual Status set_budget(uint64_t bytes) = 0;
    /** [layers][experts] of Placement. RESOURCE_BUDGET_TOO_SMALL. */
    virtual Status place(const uint8_t* placement) = 0;
    /** Gives slots ahead of their use, as far as nothing better has them: [layers][experts], 0 = not this one. */
    virtual Status read_ahead(const uint8_t* wanted) = 0;
};

}  // namespace tmoe
