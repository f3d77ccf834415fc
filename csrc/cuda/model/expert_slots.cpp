#include "cuda/model/expert_slots.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>

namespace tmoe {
namespace cuda {

namespace {

constexpr size_t kSlabBytes = size_t{64} << 20;   // memory is taken and given back in such pieces

}  // namespace

Status ExpertSlots::create(HotOptions options, std::shared_ptr<ExpertStore> store, uint64_t bytes, Stream& copies, std::unique_ptr<ExpertSlots>& out) {
    std::unique_ptr<ExpertSlots> made(new (std::nothrow) ExpertSlots(copies));
    if (!made) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate the slots' table");
    made->slot_bytes_ = options.slot_bytes;
    options.slots = std::min<size_t>(options.layers * options.experts, static_cast<size_t>(bytes / options.slot_bytes));
    made->slab_slots_ = std::min(std::max<size_t>(1, kSlabBytes / options.slot_bytes), std::max<size_t>(1, options.slots));
    TMOE_RETURN_IF_ERROR(HotExperts::create(options, store, made->hot_));
    TMOE_RETURN_IF_ERROR(made->grow_slabs(options.slots));
    TMOE_RETURN_IF_ERROR(made->stages_.allocate(kStages * options.slot_bytes));
    for (uint32_t layer = 0; layer < options.layers; layer++) made->layouts_.push_back(store->layout(layer));
    made->store_ = std::move(store);
    out = std::move(made);
    return {};
}

/** The last slab is as large as the rest needs; where it grows, what is in it moves. Where there is no room nothing has changed. */
Status ExpertSlots::grow_slabs(size_t slots) {
    std::vector<DeviceBuffer> made;
    for (size_t i = 0; i < slabs_of(slots); i++) {
        const size_t bytes = slab_bytes(i, slots);
        if (i < slabs_.size() && slabs_[i].size() == bytes) {
            made.emplace_back();
            continue;
        }
        DeviceBuffer slab;
        TMOE_RETURN_IF_ERROR(slab.allocate(bytes));
        if (i < slabs_.size()) TMOE_RETURN_IF_ERROR(copies_.on_device(slab.data(), slabs_[i].data(), std::min(bytes, slabs_[i].size())));
        made.push_back(std::move(slab));
    }
    TMOE_RETURN_IF_ERROR(copies_.wait());
    for (size_t i = 0; i < made.size(); i++) {
        if (made[i].size() == 0) made[i] = std::move(slabs_[i]);
    }
    slabs_ = std::move(made);
    return {};
}

/**
 * Gives back what is behind so many slots, in which nothing is any more. Where the smaller last slab has no room beside the larger one, what is
 * in it goes first and is read again when it is demanded; where it finds none even then, `whole` is false until a later call does.
 */
Status ExpertSlots::shrink_slabs(size_t slots) {
    const size_t last = slabs_of(slots) - 1, bytes = slab_bytes(last, slots);
    slabs_.resize(last + 1);
    if (slabs_[last].size() == bytes) return {};
    DeviceBuffer slab;
    if (slabs_[last].size() > 0 && slab.allocate(bytes).ok()) {
        TMOE_RETURN_IF_ERROR(copies_.on_device(slab.data(), slabs_[last].data(), bytes));
        TMOE_RETURN_IF_ERROR(copies_.wait());
        slabs_[last] = std::move(slab);
        return {};
    }
    drop_from(last * slab_slots_);
    return slabs_[last].allocate(bytes);
}

/** Slots from this one on lose what they have. */
void ExpertSlots::drop_from(size_t first) {
    std::lock_guard<std::mutex> guard(decisions_);
    for (uint32_t entry = 0; entry < entries(); entry++) {
        if (hot_->control().cache().slot_of(entry) >= static_cast<int64_t>(first)) hot_->drop(entry);
    }
}

Status ExpertSlots::read(uint32_t layer, std::vector<WaveItem>& absent, const std::atomic<bool>* cancel) {
    std::vector<uint32_t> experts;
    for (const WaveItem& item : absent) experts.push_back(item.expert);
    std::sort(experts.begin(), experts.end());
    const size_t bytes = layouts_[layer].bytes;
    std::vector<ReadyExpert> ready;
    TMOE_RETURN_IF_ERROR(store_->begin_layer(layer, experts));
    for (;;) {
        ready.clear();
        TMOE_RETURN_IF_ERROR(store_->next(ready, cancel));
        if (ready.empty()) return {};
        for (const ReadyExpert& expert : ready) {
            const auto item = std::find_if(absent.begin(), absent.end(), [&](const WaveItem& each) { return each.expert == expert.expert; });
            if (next_stage_ % kStages == 0) TMOE_RETURN_IF_ERROR(copies_.wait());  // the stages are free again
            uint8_t* stage = stages_.data() + next_stage_++ % kStages * slot_bytes_;
            memcpy(stage, expert.blob, bytes);
            TMOE_RETURN_IF_ERROR(copies_.to_device(slot(item->slot), stage, bytes));
            absent.erase(item);
            std::lock_guard<std::mutex> guard(decisions_);
            uploads_++;
            uploaded_bytes_ += bytes;
        }
    }
}

/** Reads what was admitted of a layer into its slots; the copies are under way when this returns. What did not come has lost its slot. */
Status ExpertSlots::fetch(uint32_t layer, const std::vector<WaveItem>& items, const std::atomic<bool>* cancel) {
    std::vector<WaveItem> absent;
    std::copy_if(items.begin(), items.end(), std::back_inserter(absent), [](const WaveItem& item) { return item.admitted; });
    if (absent.empty()) return {};
    const auto began = std::chrono::steady_clock::now();
    Status status = read(layer, absent, cancel);
    store_->end_layer();
    std::lock_guard<std::mutex> guard(decisions_);
    wait_nanoseconds_ += static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - began).count());
    for (const WaveItem& item : absent) hot_->drop(item.entry);
    return status;
}

Status ExpertSlots::bring(const std::vector<WaveItem>& admitted, bool needed, const std::atomic<bool>* cancel) {
    Status failure;
    for (uint32_t layer = 0; layer < hot_->options().layers; layer++) {
        std::vector<WaveItem> own;
        for (const WaveItem& item : admitted) {
            // One that was given a slot later may have taken it from this one.
            const bool holds = hot_->control().cache().slot_of(item.entry) == static_cast<int64_t>(item.slot);
            if (holds && hot_->control().layer_of(item.entry) == layer) own.push_back(item);
        }
        if (failure.ok()) {
            Status status = fetch(layer, own, cancel);
            if (!status.ok() && (needed || status.code() == StatusCode::CUDA_DEVICE_FAILED)) failure = std::move(status);
            continue;
        }
        std::lock_guard<std::mutex> guard(decisions_);
        for (const WaveItem& item : own) hot_->drop(item.entry);
    }
    const Status copied = copies_.wait();
    return failure.ok() ? copied : failure;
}

Status ExpertSlots::fill(const std::vector<uint8_t>& placement, const std::atomic<bool>* cancel) {
    std::vector<WaveItem> admitted;
    if (!placement.empty()) TMOE_RETURN_IF_ERROR(hot_->place(placement.data(), admitted));
    hot_->fill(admitted);
    return bring(admitted, true, cancel);
}

Status ExpertSlots::settle() {
    std::vector<const uint8_t*> places;
    for (uint32_t entry = 0; entry < entries(); entry++) places.push_back(slot(static_cast<size_t>(hot_->control().cache().slot_of(entry))));
    DeviceBuffer made;
    TMOE_RETURN_IF_ERROR(made.allocate(places.size() * sizeof places[0]));
    TMOE_RETURN_IF_ERROR(copies_.to_device(made.data(), places.data(), made.size()));
    TMOE_RETURN_IF_ERROR(copies_.wait());
    places_ = std::move(made);
    stages_.release();
    store_.reset();
    return {};
}

void ExpertSlots::set_stacks(uint32_t layer, ExpertCall& call) const {
    call.gate.stride = layouts_[layer].gate.offset;
    call.up.stride = layouts_[layer].up.offset;
    call.down.stride = layouts_[layer].down.offset;
}

Status ExpertSlots::run_settled(uint32_t layer, ExpertCall call, const ExpertMemory& memory, const DeviceFacts& device, Stream& stream) const {
    set_stacks(layer, call);
    call.gate.blobs = call.up.blobs = call.down.blobs = places_.as<const uint8_t*>() + layer * hot_->options().experts;
    return expert_matmul(stream, device, call, memory);
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

void ExpertSlots::begin_step(const StepShape& shape) {
    std::lock_guard<std::mutex> guard(decisions_);
    hot_->begin_step(shape);
}

Status ExpertSlots::run_layer(uint32_t layer, const int32_t* ids, size_t count, ExpertCall call, const ExpertMemory& memory, const DeviceFacts& device, Stream& stream, StepData& data,
                              const std::atomic<bool>* cancel) {
    set_stacks(layer, call);
    const auto decide = [&](auto decision) {
        std::lock_guard<std::mutex> guard(decisions_);
        return decision(*hot_);
    };
    bool brought = false;  // what was admitted of the oldest part is in its slots
    const auto compute_parts = [&]() -> Status {
        TMOE_RETURN_IF_ERROR(decide([&](HotExperts& hot) { return hot.begin_layer(layer, ids, count); }));
        TMOE_RETURN_IF_ERROR(begin_expert_matmul(stream, call, memory));
        while (hot_->control().parts() > 0) {
            const std::vector<WaveItem> part = hot_->control().part(0);
            // A slot may have been another's until now: whatever was launched so far must have ended before it is written.
            TMOE_RETURN_IF_ERROR(copies_.after(stream));
            TMOE_RETURN_IF_ERROR(compute(part, false, call, memory, device, stream, data));
            TMOE_RETURN_IF_ERROR(fetch(layer, part, cancel));
            brought = true;
            TMOE_RETURN_IF_ERROR(stream.after(copies_));
            TMOE_RETURN_IF_ERROR(compute(part, true, call, memory, device, stream, data));
            bool added = false;
            brought = false;
            TMOE_RETURN_IF_ERROR(decide([&](HotExperts& hot) { return hot.advance(added); }));
        }
        return {};
    };
    const Status status = compute_parts();
    decide([&](HotExperts& hot) {
        // Parts are given their slots before anything is read: what did not come to that must not be found there.
        for (size_t i = brought ? 1 : 0; i < hot.control().parts(); i++) {
            const std::vector<WaveItem> part = hot.control().part(i);
            for (const WaveItem& item : part) {
                if (item.admitted) hot.drop(item.entry);
            }
        }
        hot.end_layer();  // releases the references whatever happened
    });
    return status;
}

DeviceExperts::Counts ExpertSlots::counts() const {
    Counts out;
    out.store = store_->counts();
    std::lock_guard<std::mutex> guard(decisions_);
    const ExpertCache& cache = hot_->control().cache();
    out.store.cache = cache.counts();
    out.store.late = 0;
    out.store.wait_nanoseconds = wait_nanoseconds_;
    out.store.resident_bytes = cache.used() * slot_bytes_;
    out.store.budget_bytes = cache.slots() * slot_bytes_;
    out.layers = cache.layer_counts();
    out.uploads = uploads_;
    out.uploaded_bytes = uploaded_bytes_;
    return out;
}

void ExpertSlots::whereabouts(std::vector<uint8_t>& in_slot, std::vector<uint8_t>& placement) const {
    std::lock_guard<std::mutex> guard(decisions_);
    for (uint32_t entry = 0; entry < entries(); entry++) {
        in_slot.push_back(hot_->control().cache().slot_of(entry) >= 0);
        placement.push_back(hot_->placement(entry));
    }
}

Status ExpertSlots::set_budget(uint64_t bytes) {
    const size_t before = hot_->control().cache().slots(), wanted = std::min<size_t>(entries(), static_cast<size_t>(bytes / slot_bytes_));
    if (wanted > before) TMOE_RETURN_IF_ERROR(grow_slabs(wanted));
    {
        std::lock_guard<std::mutex> guard(decisions_);
        std::vector<uint32_t> evicted;
        TMOE_RETURN_IF_ERROR(hot_->resize(wanted, evicted));
    }
    drop_from(wanted);  // what is left lies anywhere
    return shrink_slabs(wanted);
}

Status ExpertSlots::place(const uint8_t* placement) {
    std::vector<WaveItem> admitted;
    Status status;
    {
        std::lock_guard<std::mutex> guard(decisions_);
        status = hot_->place(placement, admitted);
    }
    TMOE_RETURN_IF_ERROR(bring(admitted, false, nullptr));
    return status;
}

Status ExpertSlots::read_ahead(const uint8_t* wanted) {
    const size_t experts = hot_->options().experts;
    std::vector<WaveItem> admitted;
    {
        std::lock_guard<std::mutex> guard(decisions_);
        for (uint32_t layer = 0; layer < hot_->options().layers; layer++) {
            std::vector<uint32_t> own;
            for (uint32_t expert = 0; expert < experts; expert++) {
                if (wanted[layer * experts + expert]) own.push_back(expert);
            }
            if (!own.empty()) hot_->prefetch(layer, own, admitted);
        }
    }
    return bring(admitted, false, nullptr);
}

}  // namespace cuda
}  // namespace tmoe
