// Models and their sequences: making sequences, and steps off the JavaScript thread.
#include <cstring>
#include <unordered_set>

#include "napi/bindings.h"
#include "napi/sampling_args.h"

namespace tmoe {

namespace {

constexpr int64_t kMostItems = 65536;

Status model_disposed() { return Status(StatusCode::MODEL_NOT_LOADED, "the model was disposed"); }

Status unwrap_model(Call& call, ModelHandle*& out) {
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", out));
    return out->model ? Status() : model_disposed();
}

Status unwrap_sequence(Call& call, SequenceHandle*& out) {
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", out));
    if (out->sequence) return {};
    return Status(StatusCode::VALIDATION_ERROR, "this: the sequence was disposed").with("argument", "this");
}

Status create_sequence(Call& call, napi_value& result) {
    napi_env env = call.env;
    ModelHandle* handle = nullptr;
    std::string type;
    int64_t tokens = 0;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[0], "options"));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[0], "options", "kvType", type));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[0], "options", "maxTokens", 1, INT32_MAX, tokens));
    if (type != "f16" && type != "f32") {
        return Status(StatusCode::VALIDATION_ERROR, "options.kvType: expected f16 or f32, got " + type)
            .with("argument", "options.kvType")
            .with("expected", "f16 or f32")
            .with("actual", type);
    }
    if (!handle->model) return model_disposed();  // by a getter of the options
    std::shared_ptr<Sequence> sequence;
    TMOE_RETURN_IF_ERROR(handle->model->create_sequence(type == "f16" ? KvType::F16 : KvType::F32, static_cast<size_t>(tokens), sequence));
    return wrap(call.environment, std::make_unique<SequenceHandle>(env, handle->model, std::move(sequence)), result);
}

// One item as read, with the memory that it points to.
struct Item {
    SequenceHandle* handle = nullptr;   // kept alive by the promise
    std::vector<int32_t> tokens;
    Buffer logits;                      // copied to the caller's array at the end: its memory may be transferred meanwhile
    size_t logits_wanted = 0;           // floats
    uint32_t kept = 0;                  // place of the caller's array among the kept values
};

class StepTask : public Task {
  public:
    StepTask(std::shared_ptr<Backend> backend, std::shared_ptr<Model> model, CancelFlag cancel)
        : backend_(std::move(backend)), model_(std::move(model)), cancel_(std::move(cancel)) {}

    // Items are complete: `steps` may point into them.
    Status prepare() {
        for (size_t i = 0; i < items.size(); i++) {
            if (items[i].logits_wanted > 0) TMOE_RETURN_IF_ERROR(items[i].logits.allocate(items[i].logits_wanted * sizeof(float)));
            steps[i].tokens = items[i].tokens.data();
            steps[i].count = items[i].tokens.size();
            if (items[i].logits_wanted > 0) steps[i].logits_out = items[i].logits.as<float>();
        }
        for (Item& item : items) item.handle->steps++;
        return {};
    }

    Status run(const Ticket&) override { return model_->step(*backend_, steps, cancel_.get(), outcome_); }
    void release() override {
        steps.clear();
        model_.reset();
        backend_.reset();
    }
    void finished() override {
        for (Item& item : items)
            if (--item.handle->steps == 0) item.handle->report_pages();
    }
    Status result(Environment& environment, napi_value kept, napi_value& value) override;

    std::vector<Item> items;
    std::vector<StepItem> steps;

  private:
    Status copy_logits(napi_env env, napi_value kept, const Item& item) const;

    std::shared_ptr<Backend> backend_;
    std::shared_ptr<Model> model_;
    CancelFlag cancel_;
    StepResult outcome_;
};

Status item_result(Environment& environment, const StepItemResult& item, napi_value& out) {
    napi_env env = environment.env;
    if (napi_create_object(env, &out) != napi_ok) return exception_pending();
    if (item.status.ok()) return define_sampled(env, out, item.sampled);
    define(env, out, "token", js_number(env, -1));
    define(env, out, "error", make_error(environment, item.status));
    return {};
}

Status StepTask::copy_logits(napi_env env, napi_value kept, const Item& item) const {
    napi_value array = nullptr;
    ArrayView view;
    TMOE_RETURN_IF_ERROR(read_element(env, kept, item.kept, array));
    TMOE_RETURN_IF_ERROR(read_typed_array(env, array, "logitsOut", napi_float32_array, item.logits_wanted, view));
    memcpy(view.data, item.logits.data(), item.logits_wanted * sizeof(float));
    return {};
}

Status StepTask::result(Environment& environment, napi_value kept, napi_value& value) {
    napi_env env = environment.env;
    napi_value list = nullptr;
    if (napi_create_object(env, &value) != napi_ok || napi_create_array_with_length(env, items.size(), &list) != napi_ok) {
        return exception_pending();
    }
    for (size_t i = 0; i < items.size() && i < outcome_.items.size(); i++) {
        napi_value item = nullptr;
        if (items[i].logits_wanted > 0) TMOE_RETURN_IF_ERROR(copy_logits(env, kept, items[i]));
        TMOE_RETURN_IF_ERROR(item_result(environment, outcome_.items[i], item));
        napi_set_element(env, list, static_cast<uint32_t>(i), item);
    }
    define(env, value, "items", list);
    define(env, value, "rows", js_number(env, static_cast<double>(outcome_.rows)));
    define(env, value, "expertRows", js_number(env, static_cast<double>(outcome_.expert_rows)));
    return {};
}

Status read_logits_wanted(napi_env env, napi_value value, const std::string& at, LogitsWanted& out) {
    std::string text;
    TMOE_RETURN_IF_ERROR(read_text(env, value, at.c_str(), "logits", text));
    if (text == "none") {
        out = LogitsWanted::None;
    } else if (text == "last") {
        out = LogitsWanted::Last;
    } else if (text == "all") {
        out = LogitsWanted::All;
    } else {
        return Status(StatusCode::VALIDATION_ERROR, at + ".logits: expected none, last or all, got " + text)
            .with("argument", at + ".logits")
            .with("expected", "none, last or all")
            .with("actual", text);
    }
    return {};
}

Status read_item(Call& call, napi_value value, const std::string& at, size_t vocab, Item& item, StepItem& step, Keep& keep) {
    napi_env env = call.env;
    napi_value sequence = nullptr, tokens = nullptr, logits = nullptr, sampling = nullptr;
    TMOE_RETURN_IF_ERROR(require_object(env, value, at));
    TMOE_RETURN_IF_ERROR(read_property(env, value, "sequence", sequence));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, sequence, (at + ".sequence").c_str(), item.handle));
    keep.values.push_back(sequence);
    TMOE_RETURN_IF_ERROR(read_property(env, value, "tokens", tokens));
    TMOE_RETURN_IF_ERROR(read_tokens(env, tokens, at + ".tokens", item.tokens));
    TMOE_RETURN_IF_ERROR(read_logits_wanted(env, value, at, step.logits));
    TMOE_RETURN_IF_ERROR(read_property(env, value, "logitsOut", logits));
    TMOE_RETURN_IF_ERROR(read_property(env, value, "sampling", sampling));
    const size_t positions = step.logits == LogitsWanted::All ? item.tokens.size() : step.logits == LogitsWanted::Last ? 1 : 0;
    if (!is_undefined(env, logits)) {
        ArrayView view;
        TMOE_RETURN_IF_ERROR(read_typed_array(env, logits, (at + ".logitsOut").c_str(), napi_float32_array, positions * vocab, view));
        item.logits_wanted = positions * vocab;
        item.kept = static_cast<uint32_t>(keep.values.size());
        keep.values.push_back(logits);
    }
    if (is_undefined(env, sampling)) return {};
    if (step.logits == LogitsWanted::None) {
        return Status(StatusCode::VALIDATION_ERROR, at + ".sampling needs logits other than none").with("argument", at + ".sampling");
    }
    step.sample = true;
    return read_sampling(env, sampling, at + ".sampling", step.sampling);
}

// After every getter has run: what the items name must still be there, belong to this model and stand once.
Status check_sequences(const ModelHandle& model, std::vector<Item>& items, std::vector<StepItem>& steps) {
    std::unordered_set<const SequenceHandle*> seen;
    for (size_t i = 0; i < items.size(); i++) {
        const SequenceHandle& handle = *items[i].handle;
        const std::string at = format("items[%zu].sequence", i);
        if (!handle.sequence) return Status(StatusCode::VALIDATION_ERROR, at + ": the sequence was disposed").with("argument", at);
        if (handle.model.lock() != model.model) return Status(StatusCode::VALIDATION_ERROR, at + ": the sequence is another model's").with("argument", at);
        if (!seen.insert(&handle).second) return Status(StatusCode::VALIDATION_ERROR, at + ": the sequence is there twice").with("argument", at);
        steps[i].sequence = handle.sequence;
    }
    return {};
}

Status step(Call& call, napi_value& result) {
    napi_env env = call.env;
    ModelHandle* handle = nullptr;
    CancelHandle* cancel = nullptr;
    uint32_t count = 0;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    TMOE_RETURN_IF_ERROR(read_array(env, call.args[0], "items", count));
    if (count > kMostItems) return invalid_argument(env, "items", format("at most %lld items", static_cast<long long>(kMostItems)), call.args[0]);
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[1], "cancel", cancel));
    auto task = std::make_shared<StepTask>(handle->backend, handle->model, cancel->flag);
    const size_t vocab = handle->model->plan().vocab;
    Keep keep;
    task->items.resize(count);
    task->steps.resize(count);
    for (uint32_t i = 0; i < count; i++) {
        napi_value item = nullptr;
        TMOE_RETURN_IF_ERROR(read_element(env, call.args[0], i, item));
        TMOE_RETURN_IF_ERROR(read_item(call, item, format("items[%u]", i), vocab, task->items[i], task->steps[i], keep));
    }
    if (!handle->model) return model_disposed();
    TMOE_RETURN_IF_ERROR(check_sequences(*handle, task->items, task->steps));
    TMOE_RETURN_IF_ERROR(task->prepare());
    std::shared_ptr<Backend> backend = handle->backend;
    const Status status = start(call.environment, task, keep, backend->queue, result);
    if (!status.ok()) task->finished();
    return status;
}

// Gives weights back on the backend's thread: gigabytes take the system longer than the event loop may wait.
class ReleaseTask : public Task {
  public:
    ReleaseTask(std::shared_ptr<Backend> backend, std::shared_ptr<Model> model) : backend_(std::move(backend)), model_(std::move(model)) {}
    Status run(const Ticket&) override { return {}; }
    void release() override {
        model_.reset();
        backend_.reset();
    }
    Status result(Environment&, napi_value, napi_value&) override { return {}; }

  private:
    std::shared_ptr<Backend> backend_;
    std::shared_ptr<Model> model_;
};

Status dispose_model(Call& call, napi_value& result) {
    ModelHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", handle));
    std::shared_ptr<Backend> backend = handle->backend;
    if (!backend) {  // a second time: there is nothing left to wait for
        napi_deferred deferred = nullptr;
        napi_value nothing = nullptr;
        if (napi_get_undefined(call.env, &nothing) != napi_ok || napi_create_promise(call.env, &deferred, &result) != napi_ok) return exception_pending();
        return napi_resolve_deferred(call.env, deferred, nothing) == napi_ok ? Status() : exception_pending();
    }
    auto task = std::make_shared<ReleaseTask>(backend, std::move(handle->model));
    handle->dispose();
    return start(call.environment, std::move(task), {}, backend->queue, result);
}

Status sequence_length(Call& call, napi_value& result) {
    SequenceHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_sequence(call, handle));
    result = js_number(call.env, static_cast<double>(handle->sequence->length.load()));
    return {};
}

Status truncate(Call& call, napi_value&) {
    SequenceHandle* handle = nullptr;
    int64_t length = 0;
    TMOE_RETURN_IF_ERROR(unwrap_sequence(call, handle));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "length", 0, INT32_MAX, length));
    if (handle->steps > 0) return Status(StatusCode::VALIDATION_ERROR, "this: a step with the sequence is under way").with("argument", "this");
    handle->sequence->truncate(static_cast<size_t>(length));
    handle->report_pages();
    return {};
}

Status dispose_sequence(Call& call, napi_value&) {
    SequenceHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", handle));
    handle->dispose();
    return {};
}

}  // namespace

Status wrap_model(Environment& environment, std::shared_ptr<Backend> backend, std::shared_ptr<Model> model, napi_value& out) {
    napi_env env = environment.env;
    const Model& loaded = *model;
    napi_value kv = nullptr;
    const auto weights = static_cast<double>(loaded.weight_bytes());
    const auto f16 = static_cast<double>(loaded.kv_bytes_per_token(KvType::F16)), f32 = static_cast<double>(loaded.kv_bytes_per_token(KvType::F32));
    TMOE_RETURN_IF_ERROR(wrap(environment, std::make_unique<ModelHandle>(env, std::move(backend), std::move(model)), out));
    if (napi_create_object(env, &kv) != napi_ok) return exception_pending();
    define(env, kv, "f16", js_number(env, f16));
    define(env, kv, "f32", js_number(env, f32));
    define(env, out, "weightBytes", js_number(env, weights));
    define(env, out, "kvBytesPerToken", kv);
    return {};
}

napi_status bind_model(Environment& environment, napi_value) {
    const Member model[] = {{"createSequence", throwing<create_sequence>, nullptr},
                            {"step", promising<step>, nullptr},
                            {"dispose", promising<dispose_model>, nullptr}};
    const Member sequence[] = {{"length", nullptr, throwing<sequence_length>},
                               {"truncate", throwing<truncate>, nullptr},
                               {"dispose", throwing<dispose_sequence>, nullptr}};
    const napi_status status = define_class(environment, ClassId::Model, model, 3);
    return status == napi_ok ? define_class(environment, ClassId::Sequence, sequence, 3) : status;
}

}  // namespace tmoe
