// createBackend, and loading models onto one. The kernel methods are in bind_kernels.cpp.
#include "napi/bindings.h"
#include "napi/expert_options.h"
#include "napi/objects.h"
#include "napi/read_plan.h"

namespace tmoe {

namespace {

constexpr int64_t kMostThreads = 1024;
constexpr int64_t kMostBatch = 1 << 20;

Status create_backend(Call& call, napi_value& result) {
    napi_env env = call.env;
    std::string isa;
    int64_t threads = 0, device = 0;
    napi_value given = nullptr;
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[0], "options"));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[0], "options", "threads", 1, kMostThreads, threads));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[0], "options", "isa", isa));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[0], "device", given));
    if (!is_undefined(env, given)) TMOE_RETURN_IF_ERROR(read_integer(env, given, "options.device", 0, INT32_MAX, device));
    std::shared_ptr<Backend> backend;
    TMOE_RETURN_IF_ERROR(Backend::create(isa.c_str(), static_cast<size_t>(threads), static_cast<int>(device), backend));
    TMOE_RETURN_IF_ERROR(wrap(call.environment, std::make_unique<BackendHandle>(env, backend), result));
    define(env, result, "isa", js_text(env, isa_name(backend->isa)));
    define(env, result, "threads", js_number(env, static_cast<double>(threads)));
    return {};
}

Status kernels(Call& call, napi_value& result) {
    static const char* const names[] = {"quantiseRow", "matmul",   "rmsNorm", "rope",    "kvWrite",   "attend",
                                        "quantiseState", "dotI64", "softmax", "siluMul", "clampedSwiglu", "combineRow"};
    BackendHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_backend(call, handle));
    if (napi_create_object(call.env, &result) != napi_ok) return exception_pending();
    for (const char* name : names) define(call.env, result, name, js_text(call.env, isa_name(handle->backend->kernels->isa)));
    return {};
}

class LoadTask : public Task {
  public:
    LoadTask(std::shared_ptr<Backend> backend, std::shared_ptr<GgufFile> file, Plan plan, LoadOptions options, bool progress, CancelFlag cancel)
        : backend_(std::move(backend)),
          file_(std::move(file)),
          plan_(std::move(plan)),
          options_(std::move(options)),
          progress_(progress),
          cancel_(std::move(cancel)) {}
    Status run(const Ticket& ticket) override {
        return Model::load(*backend_, file_, std::move(plan_), options_, progress_sender(ticket, progress_), cancel_.get(), model_);
    }
    void release() override { file_.reset(); }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        return wrap_model(environment, std::move(backend_), std::move(model_), value);
    }
    void cancel() override { cancel_->store(true); }

  private:
    std::shared_ptr<Backend> backend_;
    std::shared_ptr<GgufFile> file_;
    Plan plan_;
    LoadOptions options_;
    bool progress_;
    CancelFlag cancel_;
    std::shared_ptr<Model> model_;
};

/** stepBytes(plan, maxBatchTokens, threads). */
Status step_bytes(Call& call, napi_value& result) {
    Plan plan;
    int64_t max_batch = 0, threads = 0;
    uint64_t bytes = 0;
    TMOE_RETURN_IF_ERROR(read_plan(call.env, call.args[0], plan));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[1], "maxBatchTokens", 1, kMostBatch, max_batch));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[2], "threads", 1, INT32_MAX, threads));
    TMOE_RETURN_IF_ERROR(Model::step_bytes(plan, static_cast<size_t>(max_batch), static_cast<size_t>(threads), bytes));
    result = js_number(call.env, static_cast<double>(bytes));
    return {};
}

Status load_model(Call& call, napi_value& result) {
    napi_env env = call.env;
    BackendHandle* backend = nullptr;
    GgufHandle* file = nullptr;
    CancelHandle* cancel = nullptr;
    Plan plan;
    int64_t max_batch = 0, prefix_bytes = 0;
    napi_value on_progress = nullptr, experts = nullptr, prefixes = nullptr;
    LoadOptions options;
    Keep keep;
    TMOE_RETURN_IF_ERROR(unwrap_backend(call, backend));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[0], "file", file));
    TMOE_RETURN_IF_ERROR(read_plan(env, call.args[1], plan));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[2], "options"));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[2], "options", "maxBatchTokens", 1, kMostBatch, max_batch));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[2], "onProgress", on_progress));
    TMOE_RETURN_IF_ERROR(read_optional_function(env, on_progress, "options.onProgress", keep.progress));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[2], "experts", experts));
    options.store = !is_undefined(env, experts);
    if (options.store) TMOE_RETURN_IF_ERROR(read_expert_options(env, experts, plan, options.experts));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[2], "prefixCacheBytes", prefixes));
    if (!is_undefined(env, prefixes)) TMOE_RETURN_IF_ERROR(read_integer(env, prefixes, "options.prefixCacheBytes", 0, int64_t{1} << 52, prefix_bytes));
    options.prefix_bytes = static_cast<uint64_t>(prefix_bytes);
    options.max_batch = static_cast<size_t>(max_batch);
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[3], "cancel", cancel));
    // Getters above may have closed either; the native objects are what counts from here on.
    if (!file->file) return Status(StatusCode::VALIDATION_ERROR, "file: the file was closed").with("argument", "file");
    if (!backend->backend) return backend_disposed();
    std::shared_ptr<Backend> runs_on = backend->backend;
    JobQueue& queue = runs_on->queue;
    auto task = std::make_shared<LoadTask>(std::move(runs_on), file->file, std::move(plan), std::move(options),
                                           keep.progress != nullptr, cancel->flag);
    return start(call.environment, std::move(task), keep, queue, result);
}

/** deviceCounts(): what the device is, has done and holds; undefined where there is none. */
Status device_counts(Call& call, napi_value& result) {
    BackendHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_backend(call, handle));
    const BackendDevice* device = handle->backend->device.get();
    if (!device) return {};
    BackendDevice::Counts counts;
    TMOE_RETURN_IF_ERROR(device->counts(counts));
    if (napi_create_object(call.env, &result) != napi_ok) return exception_pending();
    define(call.env, result, "device", js_text(call.env, device->name()));
    const std::pair<const char*, double> numbers[] = {{"availableBytes", static_cast<double>(counts.free_bytes)},
                                                      {"memoryBytes", static_cast<double>(counts.held_bytes)},
                                                      {"buffers", static_cast<double>(counts.buffers)},
                                                      {"submits", static_cast<double>(counts.launches)},
                                                      {"waitedMs", static_cast<double>(counts.wait_nanoseconds) / 1e6}};
    for (const auto& [name, value] : numbers) define(call.env, result, name, js_number(call.env, value));
    return {};
}

/** deviceStepBytes(plan, maxBatchTokens); undefined where there is no device. */
Status device_step_bytes(Call& call, napi_value& result) {
    BackendHandle* handle = nullptr;
    Plan plan;
    int64_t max_batch = 0;
    TMOE_RETURN_IF_ERROR(unwrap_backend(call, handle));
    TMOE_RETURN_IF_ERROR(read_plan(call.env, call.args[0], plan));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[1], "maxBatchTokens", 1, kMostBatch, max_batch));
    TMOE_RETURN_IF_ERROR(validate(plan));
    if (!handle->backend) return backend_disposed();  // by a getter of the plan
    const BackendDevice* device = handle->backend->device.get();
    if (device) result = js_number(call.env, static_cast<double>(device->step_bytes(plan, static_cast<size_t>(max_batch))));
    return {};
}

Status dispose(Call& call, napi_value&) {
    BackendHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", handle));
    handle->dispose();
    return {};
}

}  // namespace

Status backend_disposed() {
    return Status(StatusCode::VALIDATION_ERROR, "this: the backend was disposed").with("argument", "this");
}

Status unwrap_backend(Call& call, BackendHandle*& out) {
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", out));
    return out->backend ? Status() : backend_disposed();
}

napi_status bind_backend(Environment& environment, napi_value exports) {
    const Member members[] = {{"kernels", throwing<kernels>, nullptr},
                              {"loadModel", promising<load_model>, nullptr},
                              {"describeWeights", throwing<describe_weights>, nullptr},
                              {"readWeight", promising<read_weight>, nullptr},
                              {"call", throwing<backend_call>, nullptr},
                              {"callAsync", promising<backend_call_async>, nullptr},
                              {"prepare", throwing<backend_prepare>, nullptr},
                              {"callPrepared", throwing<backend_call_prepared>, nullptr},
                              {"deviceCounts", throwing<device_counts>, nullptr},
                              {"deviceStepBytes", throwing<device_step_bytes>, nullptr},
                              {"dispose", throwing<dispose>, nullptr}};
    napi_status status = define_class(environment, ClassId::Backend, members, sizeof members / sizeof members[0]);
    if (status == napi_ok) status = bind_prepared(environment);
    if (status == napi_ok) status = export_function(environment.env, exports, "createBackend", throwing<create_backend>);
    return status == napi_ok ? export_function(environment.env, exports, "stepBytes", throwing<step_bytes>) : status;
}

}  // namespace tmoe
