#include "core/store/cache_control.h"

#include <algorithm>
#include <string>

namespace tmoe {

Status CacheControl::start(const CacheOptions& options, std::shared_ptr<TraceLog> trace) {
    options_ = options;
    TMOE_RETURN_IF_ERROR(ExpertCache::create(options, cache_));
    schedule_ = std::make_unique<WaveSchedule>(*cache_);
    trace_ = std::move(trace);
    if (trace_) trace_->cache = options;
    return {};
}

void CacheControl::begin_step(const StepShape& shape) {
    if (trace_) trace_->step(shape);
    cache_->begin_step();
}

void CacheControl::begin_layer(uint32_t layer, const std::vector<uint32_t>& wanted) {
    in_layer_ = true;
    computed_ = 0;
    if (trace_) trace_->record(TraceKind::Layer, layer, wanted);
    schedule_->begin(layer, wanted);
}

bool CacheControl::advance() {
    const size_t others = schedule_->parts() - 1;
    schedule_->advance();
    computed_++;
    return schedule_->parts() > others;
}

void CacheControl::end_layer() {
    in_layer_ = false;
    schedule_->abort();
}

void CacheControl::prefetch(const std::vector<uint32_t>& entries, std::vector<WaveItem>& admitted) {
    if (trace_) trace_->record(TraceKind::Prefetch, in_layer_ ? computed_ : kTraceAfterLayer, entries);
    for (uint32_t entry : entries) {
        WaveItem item;
        if (cache_->prefetch(entry, item)) admitted.push_back(item);
    }
}

std::vector<uint32_t> CacheControl::fill_order(const std::vector<uint8_t>& placement, const std::function<bool(uint32_t)>& in_reach) const {
    const size_t room = cache_->slots() - cache_->used();
    std::vector<uint32_t> order;
    for (Placement turn : {Placement::Pinned, Placement::Preferred, Placement::ByPolicy}) {
        for (uint32_t expert = 0; expert < options_.experts; expert++) {
            for (uint32_t layer = 0; layer < options_.layers && order.size() < room; layer++) {
                const uint32_t entry = entry_of(layer, expert);
                const Placement own = placement.empty() ? Placement::ByPolicy : static_cast<Placement>(placement[entry]);
                if (own == turn && cache_->slot_of(entry) < 0 && in_reach(entry)) order.push_back(entry);
            }
        }
    }
    std::sort(order.begin(), order.end());
    return order;
}

void CacheControl::drop(uint32_t entry) {
    schedule_->forget(entry);
    cache_->drop(entry);
    if (trace_) trace_->record(TraceKind::Drop, entry);
}

void CacheControl::pin(uint32_t entry, bool pinned) {
    if (cache_->pinned(entry) == pinned) return;
    cache_->pin(entry, pinned);
    if (trace_) trace_->record(TraceKind::Pin, entry, pinned);
    pinned ? pinned_++ : pinned_--;
}

void CacheControl::demote(uint32_t entry, bool demoted) {
    cache_->demote(entry, demoted);
    if (trace_) trace_->record(TraceKind::Demote, entry, demoted);
}

size_t CacheControl::resize(size_t slots, std::vector<uint32_t>& evicted) {
    const size_t reached = cache_->resize(slots, evicted);
    if (trace_) trace_->record(TraceKind::Resize, static_cast<uint32_t>(slots));
    return reached;
}

Status archived_experts(uint32_t layer, const std::vector<uint32_t>& missing, size_t experts, const std::vector<uint32_t>& step_wanted) {
    if (missing.empty()) return {};
    std::string ids, wanted;
    for (uint32_t entry : missing) ids += (ids.empty() ? "" : ",") + std::to_string(entry % experts);
    for (uint32_t entry : step_wanted) wanted += (wanted.empty() ? "" : ",") + std::to_string(entry);
    return Status(StatusCode::EXPERT_UNAVAILABLE, format("%zu experts of layer %u are in no local file: %s", missing.size(), layer, ids.c_str()))
        .with("layer", layer)
        .with("expert", static_cast<double>(missing[0] % experts))
        .with("experts", ids)
        .with("wanted", wanted)
        .with("archived", 1);
}

}  // namespace tmoe
