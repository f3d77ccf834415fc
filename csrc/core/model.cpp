// Loading: every tensor of the plan is read with pread and repacked on all threads.
#include "core/model.h"

#include <algorithm>

#include "core/arena.h"
#include "cpu/route.h"
#include "quant/blocks.h"
#include "quant/repack.h"

namespace tmoe {

namespace {

constexpr size_t kReadBytes = size_t{1} << 20;   // what one thread reads at a time: small enough to stop within a millisecond

Status cancelled() { return Status(StatusCode::CANCELLED, "loading was cancelled"); }

std::string shape_text(const std::vector<uint64_t>& shape) {
    std::string text;
    for (uint64_t n : shape) text += (text.empty() ? "" : " × ") + std::to_string(n);
    return text;
}

/** Describes a plan tensor by what the file has. TENSOR_MISSING, TENSOR_SHAPE_MISMATCH, TENSOR_TYPE_UNSUPPORTED. */
Status describe(const GgufFile& file, const PlanTensor& wanted, Weight& out) {
    const GgufTensor* found = file.find(wanted.file_name());
    if (!found) {
        return Status(StatusCode::TENSOR_MISSING, format("the file has no tensor '%s'", wanted.file_name().c_str())).with("tensor", wanted.file_name());
    }
    const DTypeInfo* info = dtype_info(found->type_id);
    if (!info) {
        const std::string type = gguf_type_name(found->type_id), supported = supported_type_names();
        return Status(StatusCode::TENSOR_TYPE_UNSUPPORTED, format("tensor '%s' has the type %s; supported: %s", found->name.c_str(), type.c_str(), supported.c_str()))
            .with("tensor", found->name)
            .with("type", type)
            .with("supported", supported);
    }
    std::vector<uint64_t> actual = found->shape;
    while (actual.size() > wanted.shape.size() && actual.back() == 1) actual.pop_back();
    if (actual != wanted.shape) {
        const std::string has = shape_text(found->shape), needs = shape_text(wanted.shape);
        return Status(StatusCode::TENSOR_SHAPE_MISMATCH, format("tensor '%s' is %s, the model needs %s", found->name.c_str(), has.c_str(), needs.c_str()))
            .with("tensor", found->name)
            .with("expected", needs)
            .with("actual", has);
    }
    out.role = wanted.role;
    out.type = info->type;
    out.columns = wanted.shape[0];
    out.rows = wanted.shape.size() > 1 ? wanted.shape[1] : 1;
    out.experts = wanted.shape.size() > 2 ? wanted.shape[2] : 1;
    return {};
}

/** Bytes that a tensor takes once loaded. */
uint64_t loaded_bytes(const Weight& w) {
    switch (w.role) {
        case TensorRole::Vector: return w.columns * sizeof(float);
        case TensorRole::Router: return uint64_t{w.columns} * w.rows * sizeof(int32_t);
        case TensorRole::Embedding: return uint64_t{w.rows} * row_bytes(w.type, w.columns);
        default: return w.experts * uint64_t{packed_bytes(w.type, w.rows, w.columns)};
    }
}

class Loader {
  public:
    Loader(Backend& backend, const GgufFile& file, const std::atomic<bool>* cancel)
        : backend_(backend), file_(file), cancel_(cancel), scratch_(backend.pool.threads()) {}

    Status load(const GgufTensor& tensor, Weight& w) {
        switch (w.role) {
            case TensorRole::Embedding: return load_embedding(tensor, w);
            case TensorRole::Vector: return load_floats(tensor, w, false);
            case TensorRole::Router: return load_floats(tensor, w, true);
            default: return load_packed(tensor, w);
        }
    }

  private:
    /** Runs fn(item, worker) → Status on all threads and returns the first failure in item order. */
    template <class Fn> Status parallel(size_t count, Fn fn) {
        std::atomic<size_t> first_failed{count};
        std::vector<Status> failures(backend_.pool.threads());
        std::vector<size_t> failed_at(backend_.pool.threads(), count);
        const bool done = backend_.pool.for_each(count, cancel_, [&](size_t item, size_t worker) {
            if (first_failed.load(std::memory_order_relaxed) < item) return;
            Status status = fn(item, worker);
            if (status.ok() || item >= failed_at[worker]) return;
            failures[worker] = std::move(status);
            failed_at[worker] = item;
            size_t seen = first_failed;
            while (item < seen && !first_failed.compare_exchange_weak(seen, item)) {
            }
        });
        if (!done) return cancelled();
        for (size_t worker = 0; worker < failures.size(); worker++) {
            if (failed_at[worker] == first_failed && first_failed < count) return failures[worker];
        }
        return {};
    }

    Status load_packed(const GgufTensor& tensor, Weight& w) {
        const size_t row = row_bytes(w.type, w.columns), groups = (w.rows + kLanes - 1) / kLanes;
        const size_t step = std::max<size_t>(1, kReadBytes / (kLanes * row)), steps = (groups + step - 1) / step;
        w.expert_bytes = packed_bytes(w.type, w.rows, w.columns);
        TMOE_RETURN_IF_ERROR(w.data.allocate(w.expert_bytes * w.experts));
        return parallel(w.experts * steps, [&](size_t item, size_t worker) -> Status {
            const size_t expert = item / steps, first = item % steps * step, last = std::min(groups, first + step);
            const size_t first_row = first * kLanes, rows = std::min(w.rows, last * kLanes) - first_row;
            Buffer& raw = scratch_[worker];
            TMOE_RETURN_IF_ERROR(raw.reserve(rows * row));
            TMOE_RETURN_IF_ERROR(file_.read(tensor, (expert * w.rows + first_row) * row, raw.data(), rows * row));
            uint8_t* to = w.data.data() + expert * w.expert_bytes;
            for (size_t group = first; group < last; group++) {
                const size_t at = group * kLanes - first_row, count = std::min(kLanes, rows - at);
                pack_group(w.type, raw.data() + at * row, count, w.columns, to + group * packed_group_bytes(w.type, w.columns));
            }
            return {};
        });
    }

    Status load_embedding(const GgufTensor& tensor, Weight& w) {
        TMOE_RETURN_IF_ERROR(w.data.allocate(loaded_bytes(w)));
        const size_t bytes = w.data.size();
        return parallel((bytes + kReadBytes - 1) / kReadBytes, [&](size_t item, size_t) {
            const size_t at = item * kReadBytes;
            return file_.read(tensor, at, w.data.data() + at, std::min(kReadBytes, bytes - at));
        });
    }

    Status load_floats(const GgufTensor& tensor, Weight& w, bool router) {
        const size_t row = row_bytes(w.type, w.columns), count = w.columns * w.rows;
        Buffer raw, floats;
        TMOE_RETURN_IF_ERROR(raw.allocate(row * w.rows));
        TMOE_RETURN_IF_ERROR(floats.allocate(count * sizeof(float)));
        TMOE_RETURN_IF_ERROR(file_.read(tensor, 0, raw.data(), raw.size()));
        for (size_t r = 0; r < w.rows; r++) decode_row(w.type, raw.data() + r * row, floats.as<float>() + r * w.columns, w.columns);
        for (size_t i = 0; i < count; i++) {
            if (float_bits(floats.as<float>()[i]) << 1 >= 0xff000000u) {
                return Status(StatusCode::RUNTIME_NAN_DETECTED, format("tensor '%s' holds a value that is not finite at %zu", tensor.name.c_str(), i)).with("tensor", tensor.name);
            }
        }
        if (!router) {
            w.data = std::move(floats);
            return {};
        }
        TMOE_RETURN_IF_ERROR(w.data.allocate(count * sizeof(int32_t)));
        w.exponent = backend_.kernels->quantise_state(floats.as<float>(), count, w.data.as<int32_t>());
        return {};
    }

    Backend& backend_;
    const GgufFile& file_;
    const std::atomic<bool>* cancel_;
    std::vector<Buffer> scratch_;
};

}  // namespace

Status Backend::create(const char* isa, size_t threads, std::shared_ptr<Backend>& out) {
    auto backend = std::make_shared<Backend>();
    TMOE_RETURN_IF_ERROR(resolve_isa(isa, backend->isa));
    backend->kernels = find_kernels(backend->isa);
    TMOE_RETURN_IF_ERROR(backend->pool.start(threads));
    TMOE_RETURN_IF_ERROR(backend->queue.start());
    out = std::move(backend);
    return {};
}

Model::~Model() = default;

Status Model::load(Backend& backend, const GgufFile& file, Plan plan, size_t max_batch, const std::function<void(const LoadProgress&)>& progress,
                   const std::atomic<bool>* cancel, std::shared_ptr<Model>& out) {
    TMOE_RETURN_IF_ERROR(validate(plan));
    std::shared_ptr<Model> model(new (std::nothrow) Model());
    if (!model) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate a model");
    model->plan_ = std::move(plan);
    model->max_batch_ = max_batch;
    const Plan& p = model->plan_;
    for (const PlanOp& op : p.ops) {
        if (op.kind != OpKind::Route) continue;
        model->routing_ = {model->routing_.layers + 1, static_cast<size_t>(p.tensors[op.weight].shape[1]), op.k};
    }
    model->weights_.resize(p.tensors.size());
    for (size_t i = 0; i < p.tensors.size(); i++) {
        TMOE_RETURN_IF_ERROR(describe(file, p.tensors[i], model->weights_[i]));
        model->weight_bytes_ += loaded_bytes(model->weights_[i]);
    }
    model->arena_bytes_ = Arena::bytes(p, max_batch, backend.pool.threads());
    const uint64_t required = model->weight_bytes_ + model->arena_bytes_;
    const int64_t available = available_memory();
    if (required > static_cast<uint64_t>(std::max<int64_t>(available, 0))) {
        return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("the model needs %llu bytes of memory, %lld are available", static_cast<unsigned long long>(required), static_cast<long long>(available)))
            .with("required", static_cast<double>(required))
            .with("available", static_cast<double>(available));
    }
    model->arena_.reset(new (std::nothrow) Arena());
    if (!model->arena_) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate the arena");
    TMOE_RETURN_IF_ERROR(model->arena_->allocate(p, max_batch, backend.pool.threads()));

    Loader loader(backend, file, cancel);
    uint64_t total = 0, done = 0;
    for (const PlanTensor& tensor : p.tensors) total += file.find(tensor.file_name())->bytes;
    for (size_t i = 0; i < p.tensors.size(); i++) {
        if (cancel && cancel->load(std::memory_order_relaxed)) return cancelled();
        const GgufTensor& tensor = *file.find(p.tensors[i].file_name());
        TMOE_RETURN_IF_ERROR(loader.load(tensor, model->weights_[i]));
        done += tensor.bytes;
        if (progress) progress({p.tensors[i].name, i, p.tensors.size(), done, total});
    }
    out = std::move(model);
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

Status Model::create_sequence(KvType type, size_t max_tokens, std::shared_ptr<Sequence>& out) const {
    auto sequence = std::make_shared<Sequence>();
    sequence->type = type;
    sequence->max_tokens = max_tokens;
    if (const PlanOp* op = first_attention(plan_)) sequence->layer_bytes = kv_layer_bytes(type, op->kv_heads, op->head_dim, op->value_dim);
    sequence->page_bytes = sequence->layer_bytes * plan_.layers;
    out = std::move(sequence);
    return {};
}

Status Sequence::reserve(size_t tokens) {
    if (tokens > max_tokens) {
        return Status(StatusCode::CONTEXT_LENGTH_EXCEEDED, format("the sequence would hold %zu tokens, its limit is %zu", tokens, max_tokens))
            .with("required", static_cast<double>(tokens))
            .with("limit", static_cast<double>(max_tokens));
    }
    while (pages.size() * kKvPage < tokens) {
        Buffer page;
        TMOE_RETURN_IF_ERROR(page.allocate(page_bytes));
        page_data.push_back(page.data());
        pages.push_back(std::move(page));
    }
    return {};
}

}  // namespace tmoe
