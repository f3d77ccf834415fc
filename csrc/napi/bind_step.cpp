// A model's steps off the JavaScript thread: reading the items, and giving back what they ask for.
#include <cstring>
#include <unordered_set>

#include "napi/bindings.h"
#include "napi/sampling_args.h"

namespace tmoe {

namespace {

constexpr int64_t kMostItems = 65536;
constexpr int64_t kMostEpochs = int64_t{1} << 52;

// Memory that a step fills, copied to the caller's array at the end: that one may be transferred meanwhile.
struct Output {
    HeldBlock block;
    size_t wanted = 0;   // elements of 4 bytes
    uint32_t kept = 0;   // place of the caller's array among the kept values

    Status allocate(Model& model) { return wanted > 0 ? model.allocate_output(wanted * 4, block) : Status(); }
    template <class T> T* as() { return wanted > 0 ? block.as<T>() : nullptr; }
};

// One item as read, with the memory that it points to.
struct Item {
    SequenceHandle* handle = nullptr;   // kept alive by the promise
    std::vector<int32_t> tokens;
    std::vector<uint8_t> enabled;       // copies: the caller's memory may change or go while the step runs
    std::vector<int32_t> forced_ids;
    std::vector<float> forced_weights;
    Output logits;
};

class StepTask : public Task {
  public:
    StepTask(std::shared_ptr<Backend> backend, std::shared_ptr<Model> model, CancelFlag cancel)
        : backend_(std::move(backend)), model_(std::move(model)), cancel_(std::move(cancel)) {}

    // Items are complete: `steps` may point into them.
    void prepare() {
        for (size_t i = 0; i < items.size(); i++) {
            Item& item = items[i];
            steps[i].tokens = item.tokens.data();
            steps[i].count = item.tokens.size();
            if (!item.enabled.empty()) steps[i].enabled = item.enabled.data();
            if (item.forced_ids.empty()) continue;
            steps[i].forced_ids = item.forced_ids.data();
            steps[i].forced_weights = item.forced_weights.data();
        }
        for (Item& item : items) item.handle->steps++;
    }

    Status run(const Ticket&) override {
        for (size_t i = 0; i < items.size(); i++) {
            Item& item = items[i];
            TMOE_RETURN_IF_ERROR(item.logits.allocate(*model_));
            steps[i].logits_out = item.logits.as<float>();
        }
        return model_->step(*backend_, steps, cancel_.get(), outcome_);
    }
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

Status copy_output(napi_env env, napi_value kept, Output& output, const char* name, napi_typedarray_type type) {
    napi_value array = nullptr;
    ArrayView view;
    if (output.wanted == 0) return {};
    TMOE_RETURN_IF_ERROR(read_element(env, kept, output.kept, array));
    TMOE_RETURN_IF_ERROR(read_typed_array(env, array, name, type, output.wanted, view));
    memcpy(view.data, output.block.data(), output.wanted * 4);
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
        TMOE_RETURN_IF_ERROR(copy_output(env, kept, items[i].logits, "logitsOut", napi_float32_array));
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

// An array of the caller's that the step will fill. Nothing where the property is undefined.
Status read_output(napi_env env, napi_value object, const std::string& at, const char* key, napi_typedarray_type type, size_t wanted, Output& out,
                   Keep& keep) {
    napi_value array = nullptr;
    ArrayView view;
    TMOE_RETURN_IF_ERROR(read_property(env, object, key, array));
    if (is_undefined(env, array)) return {};
    TMOE_RETURN_IF_ERROR(read_typed_array(env, array, (at + "." + key).c_str(), type, wanted, view));
    out.wanted = wanted;
    out.kept = static_cast<uint32_t>(keep.values.size());
    keep.values.push_back(array);
    return {};
}

// A copy of `wanted` elements of the caller's array. Nothing where the property is undefined.
template <class T>
Status read_input(napi_env env, napi_value object, const std::string& at, const char* key, napi_typedarray_type type, size_t wanted, std::vector<T>& out) {
    napi_value array = nullptr;
    ArrayView view;
    TMOE_RETURN_IF_ERROR(read_property(env, object, key, array));
    if (is_undefined(env, array)) return {};
    TMOE_RETURN_IF_ERROR(read_typed_array(env, array, (at + "." + key).c_str(), type, wanted, view));
    out.assign(view.as<T>(), view.as<T>() + wanted);
    return {};
}

Status read_routing(napi_env env, napi_value value, const std::string& at, const Model& model, Item& item) {
    const RoutingShape& shape = model.routing();
    const size_t choices = item.tokens.size() * shape.choices();
    TMOE_RETURN_IF_ERROR(read_input(env, value, at, "enabled", napi_uint8_array, shape.mask_size(), item.enabled));
    if (!item.enabled.empty()) TMOE_RETURN_IF_ERROR(model.check_enabled(item.enabled.data()));
    TMOE_RETURN_IF_ERROR(read_input(env, value, at, "forcedIds", napi_int32_array, choices, item.forced_ids));
    TMOE_RETURN_IF_ERROR(read_input(env, value, at, "forcedWeights", napi_float32_array, choices, item.forced_weights));
    if (item.forced_ids.size() == item.forced_weights.size()) return {};
    return Status(StatusCode::VALIDATION_ERROR, at + ": ids and weights of a route come together").with("argument", at);
}

Status read_item(Call& call, napi_value value, const std::string& at, const Model& model, Item& item, StepItem& step, Keep& keep) {
    napi_env env = call.env;
    napi_value sequence = nullptr, tokens = nullptr, sampling = nullptr, epoch = nullptr;
    TMOE_RETURN_IF_ERROR(require_object(env, value, at));
    TMOE_RETURN_IF_ERROR(read_property(env, value, "sequence", sequence));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, sequence, (at + ".sequence").c_str(), item.handle));
    keep.values.push_back(sequence);
    TMOE_RETURN_IF_ERROR(read_property(env, value, "tokens", tokens));
    TMOE_RETURN_IF_ERROR(read_tokens(env, tokens, at + ".tokens", item.tokens));
    TMOE_RETURN_IF_ERROR(read_logits_wanted(env, value, at, step.logits));
    const size_t positions = step.logits == LogitsWanted::All ? item.tokens.size() : step.logits == LogitsWanted::Last ? 1 : 0;
    TMOE_RETURN_IF_ERROR(read_output(env, value, at, "logitsOut", napi_float32_array, positions * model.plan().vocab, item.logits, keep));
    TMOE_RETURN_IF_ERROR(read_routing(env, value, at, model, item));
    TMOE_RETURN_IF_ERROR(read_property(env, value, "epoch", epoch));
    if (!is_undefined(env, epoch)) {
        int64_t number = 0;
        TMOE_RETURN_IF_ERROR(read_integer(env, epoch, at + ".epoch", 0, kMostEpochs, number));
        step.epoch = static_cast<uint64_t>(number);
    }
    TMOE_RETURN_IF_ERROR(read_property(env, value, "sampling", sampling));
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

}  // namespace

Status model_step(Call& call, napi_value& result) {
    napi_env env = call.env;
    ModelHandle* handle = nullptr;
    CancelHandle* cancel = nullptr;
    uint32_t count = 0;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    TMOE_RETURN_IF_ERROR(read_array(env, call.args[0], "items", count));
    if (count > kMostItems) return invalid_argument(env, "items", format("at most %lld items", static_cast<long long>(kMostItems)), call.args[0]);
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[1], "cancel", cancel));
    auto task = std::make_shared<StepTask>(handle->backend, handle->model, cancel->flag);
    const std::shared_ptr<Model> model = handle->model;  // a getter of an item may dispose it
    Keep keep;
    task->items.resize(count);
    task->steps.resize(count);
    for (uint32_t i = 0; i < count; i++) {
        napi_value item = nullptr;
        TMOE_RETURN_IF_ERROR(read_element(env, call.args[0], i, item));
        TMOE_RETURN_IF_ERROR(read_item(call, item, format("items[%u]", i), *model, task->items[i], task->steps[i], keep));
    }
    if (!handle->model) return model_disposed();
    TMOE_RETURN_IF_ERROR(check_sequences(*handle, task->items, task->steps));
    task->prepare();
    std::shared_ptr<Backend> backend = handle->backend;
    const Status status = start(call.environment, task, keep, backend->queue, result);
    if (!status.ok()) task->finished();
    return status;
}

}  // namespace tmoe
