#include "cuda/model/expert_slots.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace tmoe {
namespace cuda {

Status ExpertSlots::create(HotOptions options, std::shared_ptr<ExpertStore> store, uint64_t bytes, std::unique_ptr<ExpertSlots>& out) {
    std::unique_ptr<ExpertSlots> made(new (std::nothrow) ExpertSlots());
    if (!made) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate the slots' table");
    made->slot_bytes_ = options.slot_bytes;
    options.slots = std::min<size_t>(options.layers * options.experts, static_cast<size_t>(bytes / options.slot_bytes));
    TMOE_RETURN_IF_ERROR(HotExperts::create(options, store, made->hot_));
    TMOE_RETURN_IF_ERROR(made->slab_.allocate(options.slots * options.slot_bytes));
    TMOE_RETURN_IF_ERROR(made->stages_.allocate(kStages * options.slot_bytes));
    made->store_ = std::move(store);
    out = std::move(made);
    return {};
}

/** Reads what was admitted into its slots; the copies are under way when this returns. */
Status ExpertSlots::fetch(uint32_t layer, const std::vector<WaveItem>& items, Stream& copies, const std::atomic<bool>* cancel) {
    std::vector<const WaveItem*> absent;
    std::vector<uint32_t> experts;
    for (const WaveItem& item : items) {
        if (!item.admitted) continue;
        absent.push_back(&item);
        experts.push_back(item.expert);
    }
    if (absent.empty()) return {};
    std::sort(experts.begin(), experts.end());
    const auto read = [&]() -> Status {
        TMOE_RETURN_IF_ERROR(store_->begin_layer(layer, experts));
        std::vector<ReadyExpert> ready;
        for (;;) {
            ready.clear();
            TMOE_RETURN_IF_ERROR(store_->next(ready, cancel));
            if (ready.empty()) return {};
            for (const ReadyExpert& expert : ready) {
                const auto item = std::find_if(absent.begin(), absent.end(), [&](const WaveItem* each) { return each->expert == expert.expert; });
                if (next_stage_ % kStages == 0) TMOE_RETURN_IF_ERROR(copies.wait());  // the stages are free again
                uint8_t* stage = stages_.data() + next_stage_++ % kStages * slot_bytes_;
                const size_t bytes = store_->layout(layer).bytes;
                memcpy(stage, expert.blob, bytes);
                TMOE_RETURN_IF_ERROR(copies.to_device(slot((*item)->slot), stage, bytes));
                absent.erase(item);
            }
        }
    };
    const Status status = read();
    store_->end_layer();
    for (const WaveItem* item : absent) hot_->drop(item->entry);
    return status;
}

/** Launches the experts of a part that were admitted, or those that were there. */
Status ExpertSlots::compute(const std::vector<WaveItem>& items, bool admitted, ExpertCall& call, const ExpertMemory& memory, const DeviceFacts& device, Stream& stream, StepData& data) {
    std::vector<uint32_t> part;
    std::vector<const uint8_t*> blobs(call.experts, nullptr);
    for (const WaveItem& item : items) {
        if (item.admitted != admitted) continue;
        part.push_back(item.expert);
        blobs[item.expert] = slot(item.slot);
    }
    if (part.empty()) return {};
    const uint8_t** table = nullptr;
    uint32_t* list = nullptr;
    TMOE_RETURN_IF_ERROR(data.send(stream, blobs, table));
    TMOE_RETURN_IF_ERROR(data.send(stream, part, list));
    call.gate.blobs = call.up.blobs = call.down.blobs = table;
    call.part = list;
    call.part_count = part.size();
    return expert_matmul_part(stream, device, call, memory);
}

Status ExpertSlots::run_layer(uint32_t layer, const int32_t* ids, size_t count, ExpertCall call, const ExpertMemory& memory, const DeviceFacts& device, Stream& stream, Stream& copies, StepData& data,
                              const std::atomic<bool>* cancel) {
    const ExpertLayout& layout = store_->layout(layer);
    call.gate.stride = layout.gate.offset;
    call.up.stride = layout.up.offset;
    call.down.stride = layout.down.offset;
    struct Use {  // releases the references whatever happens
        HotExperts& hot;
        ~Use() { hot.end_layer(); }
    } use{*hot_};
    TMOE_RETURN_IF_ERROR(hot_->begin_layer(layer, ids, count));
    TMOE_RETURN_IF_ERROR(begin_expert_matmul(stream, call, memory));
    while (hot_->control().parts() > 0) {
        const std::vector<WaveItem> part = hot_->control().part(0);
        // A slot may have been another's until now: whatever was launched so far must have ended before it is written.
        TMOE_RETURN_IF_ERROR(copies.after(stream));
        TMOE_RETURN_IF_ERROR(compute(part, false, call, memory, device, stream, data));
        TMOE_RETURN_IF_ERROR(fetch(layer, part, copies, cancel));
        TMOE_RETURN_IF_ERROR(stream.after(copies));
        TMOE_RETURN_IF_ERROR(compute(part, true, call, memory, device, stream, data));
        bool added = false;
        TMOE_RETURN_IF_ERROR(hot_->advance(added));
    }
    return {};
}

}  // namespace cuda
}  // namespace tmoe
