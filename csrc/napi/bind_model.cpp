// Models and their sequences. A model's steps are in bind_step.cpp.
#include "napi/expert_args.h"
#include "napi/expert_options.h"

namespace tmoe {

namespace {

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
    napi_value wanted = nullptr, prefix = nullptr;
    bool capture = false;
    PrefixScope scope;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    const std::shared_ptr<Model> model = handle->model;
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[0], "options"));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[0], "options", "kvType", type));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[0], "options", "maxTokens", 1, INT32_MAX, tokens));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[0], "captureRouting", wanted));
    if (!is_undefined(env, wanted)) TMOE_RETURN_IF_ERROR(read_boolean(env, wanted, "options.captureRouting", capture));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[0], "prefix", prefix));
    if (!is_undefined(env, prefix)) TMOE_RETURN_IF_ERROR(read_prefix_scope(env, prefix, *model, scope));
    if (type != "f16" && type != "f32") {
        return Status(StatusCode::VALIDATION_ERROR, "options.kvType: expected f16 or f32, got " + type)
            .with("argument", "options.kvType")
            .with("expected", "f16 or f32")
            .with("actual", type);
    }
    if (!handle->model) return model_disposed();  // by a getter of the options
    std::shared_ptr<Sequence> sequence;
    TMOE_RETURN_IF_ERROR(model->create_sequence(type == "f16" ? KvType::F16 : KvType::F32, static_cast<size_t>(tokens), capture, sequence));
    // The routes of pages that are taken over would not be this sequence's own.
    if (!is_undefined(env, prefix) && model->prefix() && !capture) model->prefix()->join(*sequence, std::move(scope));
    return wrap(call.environment, std::make_unique<SequenceHandle>(env, handle->backend, handle->model, std::move(sequence)), result);
}

// Gives weights back on the backend's thread: gigabytes take the system longer than the event loop may wait.
class ReleaseTask : public Task {
  public:
    ReleaseTask(std::shared_ptr<Backend> backend, std::shared_ptr<Model> model) : backend_(std::move(backend)), model_(std::move(model)) {}
    Status run(const Ticket&) override { return {}; }
    void release() override {
        if (model_) model_->close();
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

Status model_stats(Call& call, napi_value& result) {
    ModelHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    return expert_stats(call.env, *handle->model, result);
}

Status model_trace(Call& call, napi_value& result) {
    ModelHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    return expert_trace(call.env, handle->model->trace(), result);
}

// What is done to a model between its steps, on the backend's thread.
class ModelTask : public Task {
  public:
    ModelTask(std::shared_ptr<Backend> backend, std::shared_ptr<Model> model, std::function<Status(Model&)> work)
        : backend_(std::move(backend)), model_(std::move(model)), work_(std::move(work)) {}
    Status run(const Ticket&) override { return work_(*model_); }
    void release() override {
        model_.reset();
        backend_.reset();
    }
    Status result(Environment&, napi_value, napi_value&) override { return {}; }

  private:
    std::shared_ptr<Backend> backend_;
    std::shared_ptr<Model> model_;
    std::function<Status(Model&)> work_;
};

Status start_work(Call& call, ModelHandle& handle, std::function<Status(Model&)> work, napi_value& result) {
    std::shared_ptr<Backend> backend = handle.backend;
    auto task = std::make_shared<ModelTask>(backend, handle.model, std::move(work));
    return start(call.environment, std::move(task), {}, backend->queue, result);
}

Status set_expert_budget(Call& call, napi_value& result) {
    ModelHandle* handle = nullptr;
    int64_t bytes = 0;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "bytes", 0, int64_t{1} << 52, bytes));
    return start_work(call, *handle, [bytes](Model& model) { return model.set_expert_budget(static_cast<uint64_t>(bytes)); }, result);
}

Status place_experts(Call& call, napi_value& result) {
    ModelHandle* handle = nullptr;
    std::vector<uint8_t> placement;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    TMOE_RETURN_IF_ERROR(read_placement(call.env, call.args[0], "placement", handle->model->routing().mask_size(), placement));
    return start_work(call, *handle, [placement = std::move(placement)](Model& model) { return model.place_experts(placement.data()); }, result);
}

// Float64Array of what `read` gives for each expert.
template <class Fn> Status each_expert(napi_env env, const ExpertUse& use, Fn read, napi_value& out) {
    napi_value buffer = nullptr;
    void* data = nullptr;
    if (napi_create_arraybuffer(env, use.count() * sizeof(double), &data, &buffer) != napi_ok) return exception_pending();
    for (size_t i = 0; i < use.count(); i++) static_cast<double*>(data)[i] = static_cast<double>(read(i));
    return napi_create_typedarray(env, napi_float64_array, use.count(), buffer, 0, &out) == napi_ok ? Status() : exception_pending();
}

Status expert_use(Call& call, napi_value& result) {
    ModelHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    const ExpertUse& use = handle->model->use();
    napi_value rows = nullptr, last = nullptr;
    if (napi_create_object(call.env, &result) != napi_ok) return exception_pending();
    define(call.env, result, "steps", js_number(call.env, static_cast<double>(use.steps())));
    TMOE_RETURN_IF_ERROR(each_expert(call.env, use, [&](size_t i) { return use.rows(i); }, rows));
    TMOE_RETURN_IF_ERROR(each_expert(call.env, use, [&](size_t i) { return use.last_step(i); }, last));
    define(call.env, result, "rows", rows);
    define(call.env, result, "lastStep", last);
    return {};
}

// Of an expert's file: that it has come, or that it has gone.
template <Status (Model::*kTell)(uint32_t, uint32_t, const std::string&)> Status tell_of_file(Call& call, napi_value&) {
    ModelHandle* handle = nullptr;
    int64_t layer = 0, expert = 0;
    std::string path;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "layer", 0, INT32_MAX, layer));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[1], "expert", 0, INT32_MAX, expert));
    TMOE_RETURN_IF_ERROR(read_text(call.env, call.args[2], "path", path));
    return ((*handle->model).*kTell)(static_cast<uint32_t>(layer), static_cast<uint32_t>(expert), path);
}

Status adopt_experts(Call& call, napi_value& result) {
    ModelHandle* handle = nullptr;
    std::vector<std::string> paths;
    std::vector<AdoptedExpert> experts;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    TMOE_RETURN_IF_ERROR(read_adopted(call.env, call.args[0], handle->model->routing(), paths, experts));
    if (!handle->model) return model_disposed();  // by a getter of the places
    auto work = [paths = std::move(paths), experts = std::move(experts)](Model& model) { return model.adopt_experts(paths, experts); };
    return start_work(call, *handle, std::move(work), result);
}

Status read_ahead(Call& call, napi_value& result) {
    ModelHandle* handle = nullptr;
    ArrayView view;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    const size_t size = handle->model->routing().mask_size();
    TMOE_RETURN_IF_ERROR(read_typed_array(call.env, call.args[0], "wanted", napi_uint8_array, size, view));
    std::vector<uint8_t> wanted(view.as<uint8_t>(), view.as<uint8_t>() + size);
    return start_work(call, *handle, [wanted = std::move(wanted)](Model& model) { return model.read_ahead(wanted.data()); }, result);
}

// [{layer, expert, versions: [{epoch, path, offset, crc32c}, …]}, …]
Status place_versions(Call& call, napi_value& result) {
    napi_env env = call.env;
    ModelHandle* handle = nullptr;
    uint32_t count = 0;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    TMOE_RETURN_IF_ERROR(read_array(env, call.args[0], "experts", count));
    std::vector<ExpertVersionList> lists;
    for (uint32_t i = 0; i < count; i++) {
        const std::string at = format("experts[%u]", i);
        napi_value item = nullptr, versions = nullptr, version = nullptr;
        int64_t layer = 0, expert = 0;
        uint32_t length = 0;
        TMOE_RETURN_IF_ERROR(read_element(env, call.args[0], i, item));
        TMOE_RETURN_IF_ERROR(require_object(env, item, at));
        TMOE_RETURN_IF_ERROR(read_integer(env, item, at.c_str(), "layer", 0, UINT32_MAX, layer));
        TMOE_RETURN_IF_ERROR(read_integer(env, item, at.c_str(), "expert", 0, UINT32_MAX, expert));
        TMOE_RETURN_IF_ERROR(read_property(env, item, "versions", versions));
        TMOE_RETURN_IF_ERROR(read_array(env, versions, at + ".versions", length));
        ExpertVersionList list{static_cast<uint32_t>(layer), static_cast<uint32_t>(expert), {}};
        for (uint32_t v = 0; v < length; v++) {
            VersionPlace place;
            TMOE_RETURN_IF_ERROR(read_element(env, versions, v, version));
            TMOE_RETURN_IF_ERROR(read_version_place(env, version, format("%s.versions[%u]", at.c_str(), v), place));
            list.versions.push_back(std::move(place));
        }
        lists.push_back(std::move(list));
    }
    if (!handle->model) return model_disposed();  // by a getter of the list
    return start_work(call, *handle, [lists = std::move(lists)](Model& model) { return model.place_versions(lists); }, result);
}

// Bits of each expert and bytes of an expert of each layer; nothing where every expert stays in memory.
Status whereabouts(Call& call, napi_value& result) {
    napi_env env = call.env;
    ModelHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    const Model& model = *handle->model;
    if (!model.store()) return {};
    const RoutingShape shape = model.routing();
    napi_value buffer = nullptr, bits = nullptr, bytes = nullptr;
    void* data = nullptr;
    if (napi_create_object(env, &result) != napi_ok || napi_create_arraybuffer(env, shape.mask_size(), &data, &buffer) != napi_ok || !data) return exception_pending();
    model.whereabouts(static_cast<uint8_t*>(data));
    if (napi_create_typedarray(env, napi_uint8_array, shape.mask_size(), buffer, 0, &bits) != napi_ok) return exception_pending();
    if (napi_create_arraybuffer(env, shape.layers * sizeof(double), &data, &buffer) != napi_ok || !data) return exception_pending();
    for (size_t i = 0; i < shape.layers; i++) static_cast<double*>(data)[i] = static_cast<double>(model.store()->layout(static_cast<uint32_t>(i)).bytes);
    if (napi_create_typedarray(env, napi_float64_array, shape.layers, buffer, 0, &bytes) != napi_ok) return exception_pending();
    define(env, result, "bits", bits);
    define(env, result, "layerBytes", bytes);
    const DeviceExperts* slots = model.device_experts();
    const StoreCounts counts = slots ? slots->counts().store : model.store()->counts();
    if (slots) {
        napi_value own = nullptr;
        if (napi_get_boolean(env, true, &own) != napi_ok) return exception_pending();
        define(env, result, "ownMemory", own);
    }
    define(env, result, "usedBytes", js_number(env, static_cast<double>(counts.resident_bytes)));
    define(env, result, "budgetBytes", js_number(env, static_cast<double>(counts.budget_bytes)));
    return {};
}

Status check_enabled(Call& call, napi_value&) {
    ModelHandle* handle = nullptr;
    ArrayView mask;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    TMOE_RETURN_IF_ERROR(read_typed_array(call.env, call.args[0], "enabled", napi_uint8_array, handle->model->routing().mask_size(), mask));
    return handle->model->check_enabled(mask.as<uint8_t>());
}

Status sequence_length(Call& call, napi_value& result) {
    SequenceHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_sequence(call, handle));
    result = js_number(call.env, static_cast<double>(handle->sequence->length.load()));
    return {};
}

Status step_under_way() { return Status(StatusCode::VALIDATION_ERROR, "this: a step with the sequence is under way").with("argument", "this"); }

Status truncate(Call& call, napi_value&) {
    SequenceHandle* handle = nullptr;
    int64_t length = 0;
    TMOE_RETURN_IF_ERROR(unwrap_sequence(call, handle));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "length", 0, INT32_MAX, length));
    if (handle->steps > 0) return step_under_way();
    handle->sequence->truncate(static_cast<size_t>(length));
    handle->report_pages();
    return {};
}

Status reuse(Call& call, napi_value& result) {
    SequenceHandle* handle = nullptr;
    ArrayView tokens;
    TMOE_RETURN_IF_ERROR(unwrap_sequence(call, handle));
    TMOE_RETURN_IF_ERROR(read_typed_array(call.env, call.args[0], "tokens", napi_int32_array, 0, tokens));
    if (handle->steps > 0) return step_under_way();
    Sequence& sequence = *handle->sequence;
    const std::shared_ptr<Model> model = handle->model.lock();
    if (model && model->prefix()) model->prefix()->reuse(sequence, tokens.as<int32_t>(), tokens.length);
    result = js_number(call.env, static_cast<double>(sequence.length.load()));
    return {};
}

// Into the caller's memory, because the engine that allocates too much for a caller ends the process.
Status copy_routes(Call& call, napi_value&) {
    SequenceHandle* handle = nullptr;
    int64_t from = 0, count = 0;
    ArrayView ids, weights;
    TMOE_RETURN_IF_ERROR(unwrap_sequence(call, handle));
    const Sequence& sequence = *handle->sequence;
    const auto length = static_cast<int64_t>(sequence.length.load());
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "from", 0, length, from));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[1], "count", 0, length - from, count));
    const size_t elements = static_cast<size_t>(count) * sequence.choices;
    TMOE_RETURN_IF_ERROR(read_typed_array(call.env, call.args[2], "ids", napi_int32_array, elements, ids));
    TMOE_RETURN_IF_ERROR(read_typed_array(call.env, call.args[3], "weights", napi_float32_array, elements, weights));
    if (elements > 0) sequence.copy_routes(static_cast<size_t>(from), static_cast<size_t>(count), ids.as<int32_t>(), weights.as<float>());
    return {};
}

Status dispose_sequence(Call& call, napi_value&) {
    SequenceHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", handle));
    handle->dispose();
    return {};
}

}  // namespace

Status model_disposed() { return Status(StatusCode::MODEL_NOT_LOADED, "the model was disposed"); }

Status unwrap_model(Call& call, ModelHandle*& out) {
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", out));
    return out->model ? Status() : model_disposed();
}

Status wrap_model(Environment& environment, std::shared_ptr<Backend> backend, std::shared_ptr<Model> model, napi_value& out) {
    napi_env env = environment.env;
    const Model& loaded = *model;
    napi_value kv = nullptr, routing = nullptr;
    const RoutingShape shape = loaded.routing();
    const auto weights = static_cast<double>(loaded.weight_bytes());
    const auto f16 = static_cast<double>(loaded.kv_bytes_per_token(KvType::F16)), f32 = static_cast<double>(loaded.kv_bytes_per_token(KvType::F32));
    TMOE_RETURN_IF_ERROR(wrap(environment, std::make_unique<ModelHandle>(env, std::move(backend), std::move(model)), out));
    if (napi_create_object(env, &kv) != napi_ok) return exception_pending();
    define(env, kv, "f16", js_number(env, f16));
    define(env, kv, "f32", js_number(env, f32));
    if (napi_create_object(env, &routing) != napi_ok) return exception_pending();
    define(env, routing, "layers", js_number(env, static_cast<double>(shape.layers)));
    define(env, routing, "experts", js_number(env, static_cast<double>(shape.experts)));
    define(env, routing, "k", js_number(env, static_cast<double>(shape.k)));
    define(env, out, "routing", routing);
    define(env, out, "weightBytes", js_number(env, weights));
    define(env, out, "kvBytesPerToken", kv);
    return {};
}

napi_status bind_model(Environment& environment, napi_value) {
    const Member model[] = {{"createSequence", throwing<create_sequence>, nullptr},
                            {"expertStats", throwing<model_stats>, nullptr},
                            {"expertTrace", throwing<model_trace>, nullptr},
                            {"prefixStats", throwing<prefix_stats>, nullptr},
                            {"evictPrefixes", throwing<evict_prefixes>, nullptr},
                            {"setExpertBudget", promising<set_expert_budget>, nullptr},
                            {"placeExperts", promising<place_experts>, nullptr},
                            {"expertUse", throwing<expert_use>, nullptr},
                            {"bringExpert", throwing<tell_of_file<&Model::bring_expert>>, nullptr},
                            {"loseExpert", throwing<tell_of_file<&Model::lose_expert>>, nullptr},
                            {"adoptExperts", promising<adopt_experts>, nullptr},
                            {"readAhead", promising<read_ahead>, nullptr},
                            {"placeVersions", promising<place_versions>, nullptr},
                            {"whereabouts", throwing<whereabouts>, nullptr},
                            {"checkEnabled", throwing<check_enabled>, nullptr},
                            {"step", promising<model_step>, nullptr},
                            {"dispose", promising<dispose_model>, nullptr}};
    const Member sequence[] = {{"length", nullptr, throwing<sequence_length>},
                               {"truncate", throwing<truncate>, nullptr},
                               {"reuse", throwing<reuse>, nullptr},
                               {"copyRoutes", throwing<copy_routes>, nullptr},
                               {"dispose", throwing<dispose_sequence>, nullptr}};
    const napi_status status = define_class(environment, ClassId::Model, model, sizeof model / sizeof model[0]);
    return status == napi_ok ? define_class(environment, ClassId::Sequence, sequence, sizeof sequence / sizeof sequence[0]) : status;
}

}  // namespace tmoe
