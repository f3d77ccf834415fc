#include "core/store/residents.h"

#include <algorithm>

namespace tmoe {

Status Residents::start(const StoreOptions& options, std::shared_ptr<ExpertSource> source) {
    const size_t entries = options.layouts.size() * options.experts;
    size_t slot_bytes = 0;
    for (const ExpertLayout& layout : options.layouts) slot_bytes = std::max(slot_bytes, layout.bytes);
    experts_ = options.experts;
    memory_ = std::make_shared<Memory>();
    memory_->source = std::move(source);
    memory_->layouts = options.layouts;
    memory_->experts = options.experts;
    if (options.scrub > 0) memory_->sums.resize(entries);
    memory_->residency = std::vector<std::atomic<Residency>>(entries);
    TMOE_RETURN_IF_ERROR(SlotPool::create(slot_bytes, entries, memory_->pool));
    loads_.resize(entries);
    slots_.assign(entries, 0);
    unused_.assign(entries, 0);
    counted_.assign(entries, 0);
    holders_.assign(entries, kNoEntry);
    layer_reads_.resize(options.layouts.size());
    return queue_.start(memory_, options.io_threads, entries);
}

void Residents::leave(uint32_t entry) {
    const bool untouched = loads_[entry] && queue_.drop(loads_[entry]);
    if (unused_[entry]) {
        if (untouched) prefetch_bytes_ -= file_bytes(entry);
        else layer_reads_[layer_of(entry)].wasted += file_bytes(entry);
        unused_[entry] = 0;
    }
    loads_[entry].reset();
    {
        std::lock_guard lock(leaving_);
        if (memory_->residency[entry].exchange(Residency::Absent) == Residency::Resident) memory_->resident_bytes -= memory_->layouts[layer_of(entry)].bytes;
    }
    holders_[slots_[entry]] = kNoEntry;
}

std::vector<Residency> Residents::states() const {
    std::vector<Residency> out(entries());
    std::lock_guard lock(leaving_);
    for (uint32_t entry = 0; entry < out.size(); entry++) out[entry] = state(entry);
    return out;
}

void Residents::enter(uint32_t entry, uint32_t slot, size_t most, Reason reason) {
    slots_[entry] = slot;
    holders_[slot] = entry;
    // After a budget has shrunk the slots in use may lie far apart: none takes memory while an unused one has some.
    if (!memory_->pool->is_taken(slot)) give_back_unused(most - 1);
    if (memory_->pool->is_free(slot)) memory_->pool->trim(most - 1);
    if (reason != Reason::Preload) asked_ += file_bytes(entry);
    if (reason == Reason::Prefetch) {
        unused_[entry] = 1;
        ahead_ += file_bytes(entry);
        prefetch_bytes_ += file_bytes(entry);
    }
    read(entry, reason);
}

void Residents::read(uint32_t entry, Reason reason) {
    auto load = std::make_shared<Load>();
    load->layer = layer_of(entry);
    load->expert = expert_of(entry);
    load->slot = slots_[entry];
    load->blob = memory_->pool->at(slots_[entry]);
    load->residency = &memory_->residency[entry];
    load->demand = reason != Reason::Prefetch;
    load->pieces = memory_->source->pieces(load->layer, load->expert);
    load->sums.resize(load->pieces);
    loads_[entry] = load;
    load->error = memory_->pool->take(load->slot);
    if (!load->error.ok()) {  // as if its read had failed: a later demand tries again
        load->stop = true;
        counted_[entry] = 0;
        memory_->residency[entry] = Residency::Unavailable;
        return;
    }
    memory_->residency[entry] = Residency::Loading;
    counted_[entry] = reason == Reason::Demand;
    if (counted_[entry]) demand_bytes_ += file_bytes(entry);
    batch_.push_back(std::move(load));
}

void Residents::demand(uint32_t entry) {
    if (unused_[entry]) {
        unused_[entry] = 0;
        used_ += file_bytes(entry);
    }
    const Residency now = state(entry);
    if (now == Residency::Resident) return;
    layer_reads_[layer_of(entry)].late++;
    if (now == Residency::Loading) queue_.promote(loads_[entry]);
    else read(entry, Reason::Demand);  // a prefetch that has failed: this demand tries again
}

void Residents::submit() {
    queue_.submit(batch_);
    batch_.clear();
}

bool Residents::give_up(uint32_t entry) {
    if (state(entry) == Residency::Unavailable) return true;
    if (state(entry) == Residency::Resident || !queue_.drop_unstarted(loads_[entry])) return false;
    if (counted_[entry]) demand_bytes_ -= file_bytes(entry);
    return true;
}

void Residents::abandon(uint32_t entry) {
    const bool failed = state(entry) == Residency::Unavailable;
    leave(entry);
    if (failed) memory_->residency[entry] = Residency::Unavailable;
}

bool Residents::is_sound(uint32_t entry) const {
    return crc32c(memory_->pool->at(slots_[entry]), memory_->layouts[layer_of(entry)].bytes) == memory_->sums[entry];
}

void Residents::shrink(size_t most) {
    give_back_unused(most);
    memory_->pool->trim(most);
}

void Residents::give_back_unused(size_t most) {
    SlotPool& pool = *memory_->pool;
    for (size_t slot = 0; slot < holders_.size() && pool.taken() > most; slot++) {
        if (holders_[slot] != kNoEntry || !pool.is_taken(slot)) continue;
        queue_.wait_for_slot(slot);
        pool.give_back(slot);
    }
}

void Residents::fill(StoreCounts& out) const {
    out.demand_bytes = demand_bytes_;
    out.prefetch_bytes = prefetch_bytes_;
    out.prefetch_used = used_;
    out.asked_bytes = asked_;
    out.ahead_bytes = ahead_;
    out.read_errors = memory_->errors;
    out.resident_bytes = memory_->resident_bytes;
}

}  // namespace tmoe
