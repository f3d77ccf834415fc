// Loading a model: base weights on all threads, then experts, all of them or as many as their budget holds.
#include "core/model.h"

#include <algorithm>
#include <cstring>

#include "core/arena.h"
#include "core/prefetcher.h"
#include "core/router_copies.h"
#include "core/tensor_loader.h"

namespace tmoe {

Status Backend::create(const char* isa, size_t threads, int device, std::shared_ptr<Backend>& out) {
    auto backend = std::make_shared<Backend>();
    TMOE_RETURN_IF_ERROR(resolve_isa(isa, backend->isa));
    backend->kernels = find_kernels(backend->isa);
    TMOE_RETURN_IF_ERROR(backend->pool.start(threads));
    TMOE_RETURN_IF_ERROR(backend->queue.start());
    TMOE_RETURN_IF_ERROR(attach_device(*backend, device));
    out = std::move(backend);
    return {};
}

Model::~Model() {
    if (prefix_) prefix_->clear();  // sequences may outlive the model
}

void Model::find_routed_layers() {
    const PlanOp* norm = nullptr;
    for (const PlanOp& op : plan_.ops) {
        if (op.kind == OpKind::RmsNorm) norm = &op;
        if (op.kind == OpKind::Experts && !routed_.empty()) routed_.back().experts = &op;
        if (op.kind != OpKind::Route) continue;
        routed_.push_back({&op, nullptr, norm && norm->out == op.in ? norm : nullptr});
        routing_ = {routed_.size(), static_cast<size_t>(plan_.tensors[op.weight].shape[1]), op.k};
    }
    foreseeable_ = std::all_of(routed_.begin(), routed_.end(), [&](const RoutedLayer& layer) {
        return layer.norm && layer.norm->in == routed_[0].norm->in && plan_.tensors[layer.norm->weight].shape[0] == plan_.buffer_widths[layer.norm->in];
    });
}

Status Model::load(Backend& backend, std::shared_ptr<GgufFile> shared, Plan plan, const LoadOptions& options, const std::function<void(const LoadProgress&)>& progress,
                   const std::atomic<bool>* cancel, std::shared_ptr<Model>& out) {
    const GgufFile& file = *shared;
    TMOE_RETURN_IF_ERROR(validate(plan));
    // A device that has room for every expert of a file takes them from it like other tensors.
    const bool stored = options.store && !(backend.device && options.experts.device_bytes == 0 && options.experts.blobs.places.empty());
    std::shared_ptr<Model> model(new (std::nothrow) Model());
    if (!model) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate a model");
    model->plan_ = std::move(plan);
    model->max_batch_ = options.max_batch;
    model->held_ = std::make_shared<std::atomic<int64_t>>(0);
    if (options.prefix_bytes > 0 && !backend.device) model->prefix_ = std::make_shared<PrefixCache>(options.prefix_bytes);
    model->find_routed_layers();
    TMOE_RETURN_IF_ERROR(model->use_.allocate(model->routing_.mask_size()));
    model->versions_.start(model->routing_.layers);
    model->first_versions_.resize(model->routing_.mask_size());
    const Plan& p = model->plan_;
    model->weights_.resize(p.tensors.size());
    std::vector<size_t> base;      // tensors that are loaded here; the others are the store's
    uint64_t total = 0, done = 0;  // bytes of the file
    for (size_t i = 0; i < p.tensors.size(); i++) {
        if (stored && p.tensors[i].role == TensorRole::Experts) continue;
        TMOE_RETURN_IF_ERROR(describe_tensor(file, p.tensors[i], model->weights_[i]));
        model->weight_bytes_ += loaded_bytes(model->weights_[i]);
        total += file.find(p.tensors[i].file_name())->bytes;
        base.push_back(i);
    }
    struct CloseFailed {  // a load that fails leaves no read behind
        const std::shared_ptr<Model>& model;
        ~CloseFailed() {
            if (model) model->close();
        }
    } close_failed{model};
    if (stored) TMOE_RETURN_IF_ERROR(model->open_store(backend, std::move(shared), options.experts));
    TMOE_RETURN_IF_ERROR(step_bytes(p, options.max_batch, backend.pool.threads(), model->arena_bytes_));
    // Weights only pass through host memory where a device takes them.
    const uint64_t required = (backend.device ? model->expert_budget_.load() : model->weight_bytes_) + model->arena_bytes_;
    int64_t available = std::max<int64_t>(available_memory(), 0);
    // What other models keep for requests that may come goes first.
    if (required > static_cast<uint64_t>(available) && PrefixCache::evict_anywhere(required - static_cast<uint64_t>(available), nullptr) > 0) available = available_memory();
    if (required > static_cast<uint64_t>(std::max<int64_t>(available, 0))) {
        return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("the model needs %llu bytes of memory, %lld are available", static_cast<unsigned long long>(required), static_cast<long long>(available)))
            .with("required", static_cast<double>(required))
            .with("available", static_cast<double>(available));
    }
    model->arena_.reset(new (std::nothrow) Arena());
    if (!model->arena_) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate the arena");
    TMOE_RETURN_IF_ERROR(model->arena_->allocate(p, options.max_batch, backend.pool.threads()));

    if (backend.device) TMOE_RETURN_IF_ERROR(backend.device->create_model(*model, options, model->device_));
    const std::vector<uint8_t>& placement = options.experts.placement;
    const size_t stay = static_cast<size_t>(std::count(placement.begin(), placement.end(), static_cast<uint8_t>(Placement::Demoted)));  // where they are
    const size_t preloads = model->store_ ? std::min(static_cast<size_t>(model->expert_budget_ / model->slot_bytes_), model->routing_.mask_size() - stay) : 0;
    const size_t count = base.size() + preloads;
    total += preloads * model->slot_bytes_;
    size_t index = 0;
    const auto fill_store = [&]() -> Status {
        const size_t first = index;
        const uint64_t before = done;
        const auto arrived = [&](size_t experts, size_t) {
            index = first + experts;
            done = before + experts * model->slot_bytes_;
            if (progress) progress({"experts", index - 1, count, done, total});
        };
        TMOE_RETURN_IF_ERROR(model->store_->preload(placement, arrived, cancel));
        index = first + preloads;  // what is in an archive is not waited for
        done = before + preloads * model->slot_bytes_;
        return {};
    };
    TensorLoader loader(backend, file, cancel);
    bool filled = !model->store_;
    for (size_t i = 0, next = 0; i < p.tensors.size(); i++) {
        if (cancel && cancel->load(std::memory_order_relaxed)) return load_cancelled();
        if (p.tensors[i].role == TensorRole::Experts && !filled) {  // all experts in the place of the first
            filled = true;
            TMOE_RETURN_IF_ERROR(fill_store());
        }
        if (next == base.size() || base[next] != i) continue;
        next++;
        const GgufTensor& found = *file.find(p.tensors[i].file_name());
        TMOE_RETURN_IF_ERROR(loader.load(found, model->weights_[i]));
        TMOE_RETURN_IF_ERROR(model->arena_->divide_frequencies(static_cast<uint32_t>(i), model->weights_[i]));
        if (model->device_) TMOE_RETURN_IF_ERROR(model->device_->take(i, model->weights_[i]));
        done += found.bytes;
        if (progress) progress({p.tensors[i].name, index, count, done, total});
        index++;
    }
    if (model->device_) TMOE_RETURN_IF_ERROR(model->device_->finish(cancel));
    else if (model->copies_) TMOE_RETURN_IF_ERROR(model->copy_routers());
    out = std::move(model);
    return {};
}

Status Model::step_bytes(const Plan& plan, size_t max_batch, size_t threads, uint64_t& out) {
    TMOE_RETURN_IF_ERROR(validate(plan));
    out = Arena::bytes(plan, max_batch, threads) + Prefetcher::bytes(plan) + RouterCopies::bytes(plan, Prefetcher::kMostTokens, Prefetcher::kMostLead);
    return {};
}

namespace {

const PlanOp* first_attention(const Plan& plan) {
    for (const PlanOp& op : plan.ops) {
        if (op.kind == OpKind::Attention) return &op;
    }
    return nullptr;
}

}  // namespace

size_t Model::kv_bytes_per_token(KvType type) const {
    const PlanOp* op = first_attention(plan_);
    return op ? plan_.layers * kv_layer_bytes(type, op->kv_heads, op->head_dim, op->value_dim) / kKvPage : 0;
}

Status Model::create_sequence(KvType type, size_t max_tokens, bool capture_routes, std::shared_ptr<Sequence>& out) const {
    auto sequence = std::make_shared<Sequence>();
    sequence->type = type;
    sequence->max_tokens = max_tokens;
    if (const PlanOp* op = first_attention(plan_)) sequence->layer_bytes = kv_layer_bytes(type, op->kv_heads, op->head_dim, op->value_dim);
    sequence->routes_at = device_ ? 0 : sequence->layer_bytes * plan_.layers;
    if (capture_routes) sequence->choices = routing_.choices();
    sequence->page_bytes = sequence->routes_at + kKvPage * sequence->choices * (sizeof(int32_t) + sizeof(float));
    sequence->held = held_;
    out = std::move(sequence);
    return {};
}

Status Sequence::reserve(size_t tokens) {
    if (tokens > max_tokens) {
        return Status(StatusCode::CONTEXT_LENGTH_EXCEEDED, format("the sequence would hold %zu tokens, its limit is %zu", tokens, max_tokens))
            .with("required", static_cast<double>(tokens))
            .with("limit", static_cast<double>(max_tokens));
    }
    for (size_t i = length / kKvPage; i * kKvPage < tokens; i++) {
        if (i < pages.size() && !is_shared(i)) continue;
        auto page = std::make_shared<HeldBlock>();
        TMOE_RETURN_IF_ERROR(page->allocate(page_bytes, held));
        std::vector<std::shared_ptr<HeldBlock>> own = {std::move(page)};
        if (i < pages.size()) memcpy(own[0]->data(), page_data[i], page_bytes);  // of a sequence that was truncated
        replace_pages(i, own);
    }
    return {};
}

size_t Sequence::missing_bytes(size_t tokens) const {
    size_t missing = 0;
    for (size_t i = length / kKvPage; i * kKvPage < tokens; i++) missing += i < pages.size() && !is_shared(i) ? 0 : page_bytes;
    return missing;
}

void Sequence::replace_pages(size_t first, std::vector<std::shared_ptr<HeldBlock>>& with) {
    std::lock_guard<std::mutex> guard(growth_);
    for (size_t i = 0; i < with.size(); i++) {
        uint8_t* data = with[i]->data();
        if (first + i < pages.size()) {
            pages[first + i].swap(with[i]);
            page_data[first + i] = data;
        } else {
            pages.push_back(std::move(with[i]));
            page_data.push_back(data);
        }
    }
}

void Sequence::copy_routes(size_t from, size_t count, int32_t* ids, float* weights) const {
    std::lock_guard<std::mutex> guard(growth_);
    for (size_t at = from, n; at < from + count; at += n) {
        n = std::min(kKvPage - at % kKvPage, from + count - at);  // up to the page's end
        memcpy(ids + (at - from) * choices, route_ids(at), n * choices * sizeof(int32_t));
        memcpy(weights + (at - from) * choices, route_weights(at), n * choices * sizeof(float));
    }
}

}  // namespace tmoe
