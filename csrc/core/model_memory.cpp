// How a model shares its memory between experts and the KV cache: opening the store, and moving the border between the two.
#include <algorithm>

#include "core/expert_tensors.h"
#include "core/model.h"
#include "core/prefetcher.h"
#include "core/router_copies.h"
#include "cpu/route_hser.h"

namespace tmoe {

namespace {

double number_of(const Status& status, const char* key) {
    for (const Detail& detail : status.details()) {
        if (detail.key == key) return detail.number;
    }
    return 0;
}

/** Of the machine's memory, what cached prefixes leave to everybody else. */
constexpr int64_t kLeftBytes = int64_t{64} << 20;

Status no_store() { return Status(StatusCode::VALIDATION_ERROR, "this: every expert of the model stays in memory, there is no budget").with("argument", "this"); }

}  // namespace

Status Model::open_store(Backend& backend, std::shared_ptr<GgufFile> file, const ExpertOptions& options) {
    const ExpertBlobs& blobs = options.blobs;
    const bool has_blobs = !blobs.places.empty();
    if (!options.placement.empty() && options.placement.size() != routing_.mask_size()) {
        return Status(StatusCode::VALIDATION_ERROR, format("the placement is of %zu experts, the model has %zu", options.placement.size(), routing_.mask_size()))
            .with("argument", "options.experts.placement");
    }
    StoreOptions store;
    std::shared_ptr<ExpertSource> source;
    TMOE_RETURN_IF_ERROR(open_experts(plan_, std::move(file), blobs, weights_, store.layouts, source));
    for (const ExpertLayout& layout : store.layouts) slot_bytes_ = std::max(slot_bytes_, layout.bytes);
    const uint64_t total = uint64_t{slot_bytes_} * routed_.size() * routing_.experts;
    store.experts = routing_.experts;
    store.budget_bytes = std::min(options.budget_bytes, total) / slot_bytes_ * slot_bytes_;
    store.workers = backend.pool.threads();
    workers_least_ = std::min(store.workers + 1, routing_.mask_size());
    store.io_threads = options.io_threads;
    store.policy = options.policy;
    store.seed = options.seed;
    store.scrub = options.scrub;
    if (options.trace_words > 0) trace_ = std::make_shared<TraceLog>(options.trace_words);
    if (!backend.device) store.trace = trace_;  // a device's slots are what is asked first
    expert_budget_ = store.budget_bytes;
    kv_reserve_ = options.kv_reserve_bytes;
    weight_bytes_ += expert_budget_;
    placement_ = std::vector<std::atomic<uint8_t>>(routing_.mask_size());  // all ByPolicy
    for (size_t i = 0; has_blobs && i < first_versions_.size(); i++) {
        const BlobPlace& place = blobs.places[i / routing_.experts][i % routing_.experts];
        if (place.file < blobs.files.size()) first_versions_[i] = {0, blobs.files[place.file], place.offset, place.crc32c};
    }
    TMOE_RETURN_IF_ERROR(ExpertStore::create(std::move(store), std::move(source), store_));
    prefetcher_.reset(new (std::nothrow) Prefetcher(options.prefetch, routing_));
    copies_.reset(new (std::nothrow) RouterCopies());
    // A device's slots are pinned; the host's store is only filled in that order.
    if (!options.placement.empty() && !backend.device) TMOE_RETURN_IF_ERROR(mark_placement(options.placement.data()));
    if (!prefetcher_ || !copies_) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate the prefetcher");
    size_t rows = 0;
    for (const RoutedLayer& layer : routed_) rows = std::max(rows, routing_.experts + layer.route->hser.tier_groups.size() + layer.route->hser.group_experts.size());
    const size_t width = plan_.buffer_widths[routed_[0].route->in];
    TMOE_RETURN_IF_ERROR(copies_->reserve(width, routing_, Prefetcher::kMostTokens, Prefetcher::kMostLead));
    return prefetcher_->reserve(width, rows);
}

Status Model::copy_routers() {
    if (!foreseeable_ || prefetcher_->mode() == PrefetchMode::Off) return {};
    for (size_t layer = 0; layer < routed_.size(); layer++) {
        RouteArgs args;
        HserRouting levels;
        describe_route(*routed_[layer].route, args, levels);
        if (args.form == RouteForm::Hser || !args.ranks_by_scores()) continue;  // levels, biases or groups count too: what is foreseen there is the route itself
        TMOE_RETURN_IF_ERROR(copies_->copy(layer, args.router));
    }
    return {};
}

Status Model::set_expert_budget(uint64_t bytes) {
    if (!store_) return no_store();
    if (DeviceExperts* own = slots()) return own->set_budget(bytes);
    const uint64_t budget = std::min<uint64_t>(bytes, uint64_t{slot_bytes_} * routing_.mask_size()) / slot_bytes_ * slot_bytes_;
    // What the requests under way hold stays theirs: a budget that leaves too little beside it changes nothing.
    if (prefix_) prefix_->evict(beyond_reserve(static_cast<uint64_t>(held_->load())));
    const uint64_t beyond = (beyond_reserve(static_cast<uint64_t>(held_->load())) + slot_bytes_ - 1) / slot_bytes_ * slot_bytes_;
    const Status status = store_->set_budget(budget > beyond ? budget - beyond : 0);
    if (status.code() == StatusCode::RESOURCE_BUDGET_TOO_SMALL) {
        const double least = number_of(status, "required") + static_cast<double>(beyond);
        return Status(status.code(), status.message()).with("required", least).with("available", static_cast<double>(budget)).with("slotBytes", static_cast<double>(slot_bytes_));
    }
    TMOE_RETURN_IF_ERROR(status);
    weight_bytes_ = weight_bytes_ - expert_budget_ + budget;
    expert_budget_ = budget;
    return {};
}

Status Model::mark_placement(const uint8_t* placement) {
    for (int pins = 0; pins < 2; pins++) {  // what is no longer pinned makes room before anything new is
        for (size_t i = 0; i < placement_.size(); i++) {
            const auto layer = static_cast<uint32_t>(i / routing_.experts), expert = static_cast<uint32_t>(i % routing_.experts);
            const bool pinned = placement[i] == static_cast<uint8_t>(Placement::Pinned), was = placement_[i] == static_cast<uint8_t>(Placement::Pinned);
            const bool demoted = placement[i] == static_cast<uint8_t>(Placement::Demoted);
            if (pinned != was && pinned == (pins == 1)) TMOE_RETURN_IF_ERROR(store_->pin(layer, expert, pinned));
            if (pins == 0 && demoted != (placement_[i] == static_cast<uint8_t>(Placement::Demoted))) store_->demote(layer, expert, demoted);
            if (pins == (pinned ? 1 : 0)) placement_[i] = placement[i];
        }
    }
    return {};
}

Status Model::place_experts(const uint8_t* placement) {
    if (!store_) return no_store();
    if (DeviceExperts* own = slots()) return own->place(placement);
    const size_t layers = routing_.layers;
    std::vector<std::vector<uint32_t>> promoted(2 * layers);  // per layer what is pinned, then per layer what is back
    for (size_t i = 0; i < placement_.size(); i++) {
        const bool back = placement_[i] == static_cast<uint8_t>(Placement::Demoted) && placement[i] != placement_[i];
        const bool pinned = placement[i] == static_cast<uint8_t>(Placement::Pinned) && placement[i] != placement_[i];
        if (back || pinned) promoted[i / routing_.experts + (pinned ? 0 : layers)].push_back(static_cast<uint32_t>(i % routing_.experts));
    }
    TMOE_RETURN_IF_ERROR(mark_placement(placement));
    // What comes back is read ahead of its use, as far as it finds slots that nothing better has.
    for (size_t i = 0; i < promoted.size(); i++) {
        if (!promoted[i].empty()) store_->prefetch(static_cast<uint32_t>(i % layers), promoted[i]);
    }
    return {};
}

Status Model::check_expert(uint32_t layer, uint32_t expert) const {
    if (!store_) return no_store();
    if (layer < routing_.layers && expert < routing_.experts) return {};
    return Status(StatusCode::VALIDATION_ERROR, format("there is no expert %u in layer %u", expert, layer)).with("argument", "expert");
}

Status Model::bring_expert(uint32_t layer, uint32_t expert, const std::string& path) {
    TMOE_RETURN_IF_ERROR(check_expert(layer, expert));
    store_->bring(layer, expert, path);
    return {};
}

Status Model::lose_expert(uint32_t layer, uint32_t expert, const std::string& path) {
    TMOE_RETURN_IF_ERROR(check_expert(layer, expert));
    store_->lose(layer, expert, path);
    return {};
}

Status Model::adopt_experts(const std::vector<std::string>& files, const std::vector<AdoptedExpert>& experts) {
    return store_ ? tmoe::adopt_experts(*store_, routing_, files, experts) : no_store();
}

Status Model::read_ahead(const uint8_t* wanted) {
    if (!store_) return no_store();
    if (DeviceExperts* own = slots()) return own->read_ahead(wanted);
    for (size_t layer = 0; layer < routing_.layers; layer++) {
        std::vector<uint32_t> experts;
        for (size_t expert = 0; expert < routing_.experts; expert++) {
            if (wanted[layer * routing_.experts + expert]) experts.push_back(static_cast<uint32_t>(expert));
        }
        store_->prefetch(static_cast<uint32_t>(layer), experts);
    }
    return {};
}

void Model::whereabouts(uint8_t* out) const {
    std::vector<uint8_t> in_slot, placed;
    if (const DeviceExperts* own = device_experts()) own->whereabouts(in_slot, placed);
    const std::vector<Residency> residencies = store_->residencies();
    for (size_t i = 0; i < routing_.mask_size(); i++) {
        const auto layer = static_cast<uint32_t>(i / routing_.experts), expert = static_cast<uint32_t>(i % routing_.experts);
        const auto placement = static_cast<Placement>(placed.empty() ? placement_[i].load() : placed[i]);
        const bool hot = !in_slot.empty() && in_slot[i];
        const uint8_t residency = hot ? static_cast<uint8_t>(Residency::Resident) | kDeviceBit : static_cast<uint8_t>(residencies[i]);
        out[i] = static_cast<uint8_t>(residency | (placement == Placement::Pinned ? kPinnedBit : 0) |
                                      (placement == Placement::Demoted ? kDemotedBit : 0) | (store_->local(layer, expert) ? kLocalBit : 0));
    }
}

Status Model::balance_memory(uint64_t held) {
    if (prefix_) held -= prefix_->evict(beyond_reserve(held));
    const uint64_t beyond = beyond_reserve(held);
    const uint64_t left = expert_budget_ > beyond ? (expert_budget_ - beyond) / slot_bytes_ * slot_bytes_ : 0;
    const uint64_t now = store_->counts().budget_bytes;
    if (left == now) return {};
    Status status = store_->set_budget(left);
    if (left > now && status.code() == StatusCode::RESOURCE_MEMORY_EXHAUSTED) return {};  // what is there has to do; the next step asks again
    // Pins are a wish; a request that was accepted goes before them.
    for (size_t i = placement_.size(); i-- > 0 && !status.ok() && left >= workers_least_ * slot_bytes_;) {
        if (placement_[i] != static_cast<uint8_t>(Placement::Pinned)) continue;
        TMOE_RETURN_IF_ERROR(store_->pin(static_cast<uint32_t>(i / routing_.experts), static_cast<uint32_t>(i % routing_.experts), false));
        placement_[i] = static_cast<uint8_t>(Placement::ByPolicy);
        status = store_->set_budget(left);
    }
    if (status.ok()) {
        if (left < now) pressure_events_++;
        return {};
    }
    return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED,
                  format("%llu bytes of KV cache and outputs leave %llu bytes for experts: %s", static_cast<unsigned long long>(held), static_cast<unsigned long long>(left), status.message().c_str()))
        .with("required", static_cast<double>(held))
        .with("available", static_cast<double>(kv_reserve_));
}

bool Model::make_room(uint64_t bytes) {
    const uint64_t evicted = PrefixCache::evict_anywhere(bytes, prefix_.get());
    if (evicted >= bytes || !store_) return evicted > 0;
    const uint64_t given = ((bytes - evicted) / slot_bytes_ + 1) * slot_bytes_, now = store_->counts().budget_bytes;
    if (given > now || given > expert_budget_ || !store_->set_budget(now - given).ok()) return evicted > 0;
    pressure_events_++;
    expert_budget_ -= given;
    weight_bytes_ -= given;
    return true;
}

Status Model::reserve(Sequence& sequence, size_t tokens) {
    const auto missing = static_cast<int64_t>(sequence.missing_bytes(tokens));
    if (missing > 0 && PrefixCache::idle_anywhere() > 0) {
        // A system that grants more than it has would kill instead of refusing.
        const int64_t left = available_memory() - missing;
        if (left < kLeftBytes) PrefixCache::evict_anywhere(static_cast<uint64_t>(kLeftBytes - left), prefix_.get());
    }
    Status status = sequence.reserve(tokens);
    if (status.ok() || status.code() != StatusCode::RESOURCE_MEMORY_EXHAUSTED || !make_room(sequence.missing_bytes(tokens))) return status;
    return sequence.reserve(tokens);  // once; the next failure is the caller's
}

Status Model::allocate_output(size_t bytes, HeldBlock& out) {
    if (store_) TMOE_RETURN_IF_ERROR(balance_memory(static_cast<uint64_t>(held_->load()) + bytes));
    Status status = out.allocate(bytes, held_);
    if (status.ok() || !make_room(bytes)) return status;
    return out.allocate(bytes, held_);
}

}  // namespace tmoe
