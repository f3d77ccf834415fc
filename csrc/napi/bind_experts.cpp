// Experts for a device's memory: a reader of their bytes, out of host memory and files. Who has a slot of the device is in bind_expert_slots.cpp.
#include <algorithm>
#include <cstring>

#include "core/expert_tensors.h"
#include "napi/expert_args.h"
#include "napi/expert_options.h"
#include "napi/read_plan.h"

namespace tmoe {

namespace {

constexpr int64_t kMostBytes = int64_t{1} << 52;

class OpenTask : public Task {
  public:
    OpenTask(std::shared_ptr<GgufFile> file, Plan plan, ExpertOptions options) : file_(std::move(file)), plan_(std::move(plan)), options_(std::move(options)) {}

    Status run(const Ticket&) override {
        TMOE_RETURN_IF_ERROR(validate(plan_));
        StoreOptions store;
        std::shared_ptr<ExpertSource> source;
        std::vector<Weight> weights(plan_.tensors.size());
        TMOE_RETURN_IF_ERROR(open_experts(plan_, file_, options_.blobs, weights, store.layouts, source));
        for (const PlanOp& op : plan_.ops) {
            if (op.kind == OpKind::Route) shape_ = {store.layouts.size(), static_cast<size_t>(plan_.tensors[op.weight].shape[1]), op.k};
        }
        store.experts = shape_.experts;
        store.budget_bytes = options_.budget_bytes;
        store.io_threads = options_.io_threads;
        store.policy = options_.policy;
        store.seed = options_.seed;
        store.scrub = options_.scrub;
        queue_ = std::make_shared<JobQueue>();
        TMOE_RETURN_IF_ERROR(queue_->start());
        return ExpertStore::create(std::move(store), std::move(source), store_);
    }
    void release() override { file_.reset(); }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        napi_env env = environment.env;
        napi_value layouts = nullptr;
        size_t slot_bytes = 0;
        if (napi_create_array_with_length(env, shape_.layers, &layouts) != napi_ok) return exception_pending();
        for (uint32_t layer = 0; layer < shape_.layers; layer++) {
            const ExpertLayout& layout = store_->layout(layer);
            slot_bytes = std::max(slot_bytes, layout.bytes);
            if (napi_set_element(env, layouts, layer, layout_object(env, layout)) != napi_ok) return exception_pending();
        }
        TMOE_RETURN_IF_ERROR(wrap(environment, std::make_unique<ExpertReaderHandle>(env, std::move(store_), shape_, std::move(queue_)), value));
        define(env, value, "layouts", layouts);
        define(env, value, "experts", js_number(env, static_cast<double>(shape_.experts)));
        define(env, value, "slotBytes", js_number(env, static_cast<double>(slot_bytes)));
        return {};
    }

  private:
    std::shared_ptr<GgufFile> file_;
    Plan plan_;
    ExpertOptions options_;
    RoutingShape shape_;
    std::shared_ptr<JobQueue> queue_;
    std::shared_ptr<ExpertStore> store_;
};

Status open_reader(Call& call, napi_value& result) {
    napi_env env = call.env;
    GgufHandle* file = nullptr;
    Plan plan;
    ExpertOptions options;
    napi_value experts = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[0], "file", file));
    TMOE_RETURN_IF_ERROR(read_plan(env, call.args[1], plan));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[2], "options"));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[2], "experts", experts));
    TMOE_RETURN_IF_ERROR(read_expert_options(env, experts, plan, options));
    if (!file->file) return Status(StatusCode::VALIDATION_ERROR, "file: the file was closed").with("argument", "file");
    return start(call.environment, std::make_shared<OpenTask>(file->file, std::move(plan), std::move(options)), {}, result);
}

/** Something done with the store on its queue. */
class StoreTask : public Task {
  public:
    StoreTask(ExpertReaderHandle& handle, std::function<Status(ExpertStore&)> work) : store_(handle.store), work_(std::move(work)) {}
    Status run(const Ticket&) override { return work_(*store_); }
    void release() override { store_.reset(); }
    Status result(Environment&, napi_value, napi_value&) override { return {}; }

  private:
    std::shared_ptr<ExpertStore> store_;
    std::function<Status(ExpertStore&)> work_;
};

Status start_work(Call& call, ExpertReaderHandle& handle, std::function<Status(ExpertStore&)> work, napi_value& result) {
    handle.take_back();
    const std::shared_ptr<JobQueue> queue = handle.queue;
    return start(call.environment, std::make_shared<StoreTask>(handle, std::move(work)), {}, *queue, result);
}

/** Experts of a layer, as they arrive. */
class ReadTask : public Task {
  public:
    ReadTask(const ExpertReaderHandle& handle, CancelFlag cancel) : store_(handle.store), cancel_(std::move(cancel)), call_(handle.calls), layer_(handle.layer) {}
    /** The first call for a layer; without it, the next one. */
    void begin(std::vector<uint32_t> experts, const StepShape* step) {
        begins_ = true;
        experts_ = std::move(experts);
        steps_ = step != nullptr;
        if (step) step_ = *step;
    }
    Status run(const Ticket&) override {
        if (steps_) store_->begin_step(step_);
        Status status = begins_ ? store_->begin_layer(layer_, experts_) : Status();
        if (status.ok()) status = store_->next(ready_, cancel_.get());
        if (!status.ok() || ready_.empty()) store_->end_layer();
        return status;
    }
    Status result(Environment& environment, napi_value kept, napi_value& value) override;

  private:
    std::shared_ptr<ExpertStore> store_;
    CancelFlag cancel_;
    uint64_t call_;
    uint32_t layer_;
    bool begins_ = false, steps_ = false;
    std::vector<uint32_t> experts_;
    StepShape step_;
    std::vector<ReadyExpert> ready_;
};

Status ReadTask::result(Environment& environment, napi_value kept, napi_value& value) {
    napi_env env = environment.env;
    napi_value self = nullptr, ids = nullptr, blobs = nullptr;
    ExpertReaderHandle* handle = nullptr;
    if (ready_.empty()) return {};
    if (napi_get_element(env, kept, 0, &self) != napi_ok) return exception_pending();
    TMOE_RETURN_IF_ERROR(unwrap(environment, self, "this", handle));
    if (!handle->store) return reader_disposed();
    // A later call may have given the memory of these away already.
    if (handle->calls != call_) return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, "experts were asked for while others were being read");
    std::vector<uint32_t> experts;
    for (const ReadyExpert& ready : ready_) experts.push_back(ready.expert);
    if (napi_create_object(env, &value) != napi_ok || napi_create_array_with_length(env, ready_.size(), &blobs) != napi_ok) return exception_pending();
    TMOE_RETURN_IF_ERROR(words_array(env, experts.data(), experts.size(), ids));
    for (uint32_t i = 0; i < ready_.size(); i++) {
        napi_value blob = nullptr;
        TMOE_RETURN_IF_ERROR(handle->lend(self, ready_[i].blob, store_->layout(layer_).bytes, blob));
        if (napi_set_element(env, blobs, i, blob) != napi_ok) return exception_pending();
    }
    define(env, value, "experts", ids);
    define(env, value, "blobs", blobs);
    return {};
}

Status start_read(Call& call, ExpertReaderHandle& handle, std::shared_ptr<ReadTask> task, napi_value& result) {
    const std::shared_ptr<JobQueue> queue = handle.queue;
    return start(call.environment, std::move(task), {{call.self}, nullptr}, *queue, result);
}

Status unwrap_cancel(Call& call, size_t argument, CancelFlag& out) {
    CancelHandle* cancel = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[argument], "cancel", cancel));
    out = cancel->flag;
    return {};
}

/** begin(layer, experts, cancel, step?) */
Status begin_read(Call& call, napi_value& result) {
    ExpertReaderHandle* handle = nullptr;
    CancelFlag cancel;
    uint32_t layer = 0;
    StepShape step;
    std::vector<uint32_t> experts;
    const bool steps = !is_undefined(call.env, call.args[3]);
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    TMOE_RETURN_IF_ERROR(read_layer(call, handle->shape, layer));
    TMOE_RETURN_IF_ERROR(unwrap_cancel(call, 2, cancel));
    if (steps) TMOE_RETURN_IF_ERROR(read_step(call.env, call.args[3], step));
    TMOE_RETURN_IF_ERROR(read_ids(call, 1, "experts", experts));
    if (!std::is_sorted(experts.begin(), experts.end(), std::less_equal<>())) return invalid_argument(call.env, "experts", "ascending ids, each once", call.args[1]);
    if (!handle->store) return reader_disposed();  // by a getter of the step
    handle->take_back();
    handle->layer = layer;
    auto task = std::make_shared<ReadTask>(*handle, std::move(cancel));
    task->begin(std::move(experts), steps ? &step : nullptr);
    return start_read(call, *handle, std::move(task), result);
}

/** next(cancel) */
Status next_read(Call& call, napi_value& result) {
    ExpertReaderHandle* handle = nullptr;
    CancelFlag cancel;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    TMOE_RETURN_IF_ERROR(unwrap_cancel(call, 0, cancel));
    handle->take_back();
    return start_read(call, *handle, std::make_shared<ReadTask>(*handle, std::move(cancel)), result);
}

/** prefetch(layer, experts): asks for reads; the promise says that it has. */
Status prefetch_read(Call& call, napi_value& result) {
    ExpertReaderHandle* handle = nullptr;
    uint32_t layer = 0;
    std::vector<uint32_t> experts;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    TMOE_RETURN_IF_ERROR(read_layer(call, handle->shape, layer));
    TMOE_RETURN_IF_ERROR(read_ids(call, 1, "experts", experts));
    return start_work(call, *handle, [layer, experts = std::move(experts)](ExpertStore& store) {
        store.prefetch(layer, experts);
        return Status();
    }, result);
}

Status set_reader_budget(Call& call, napi_value& result) {
    ExpertReaderHandle* handle = nullptr;
    int64_t bytes = 0;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "bytes", 0, kMostBytes, bytes));
    return start_work(call, *handle, [bytes](ExpertStore& store) { return store.set_budget(static_cast<uint64_t>(bytes)); }, result);
}

/** scrub(): between two steps. */
Status scrub_reader(Call& call, napi_value& result) {
    ExpertReaderHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    return start_work(call, *handle, [](ExpertStore& store) { return store.scrub(); }, result);
}

Status adopt_into_reader(Call& call, napi_value& result) {
    ExpertReaderHandle* handle = nullptr;
    std::vector<std::string> paths;
    std::vector<AdoptedExpert> experts;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    const RoutingShape shape = handle->shape;
    TMOE_RETURN_IF_ERROR(read_adopted(call.env, call.args[0], shape, paths, experts));
    if (!handle->store) return reader_disposed();  // by a getter of the places
    auto work = [shape, paths = std::move(paths), experts = std::move(experts)](ExpertStore& store) { return adopt_experts(store, shape, paths, experts); };
    return start_work(call, *handle, std::move(work), result);
}

struct Replacement {
    uint32_t layer = 0, expert = 0;
    VersionPlace place;
};

/** All of them or none. */
Status replace_in_store(ExpertStore& store, const std::vector<Replacement>& list) {
    std::vector<std::shared_ptr<DirectFile>> files(list.size());
    for (size_t i = 0; i < list.size(); i++) {
        TMOE_RETURN_IF_ERROR(open_version(list[i].layer, list[i].expert, list[i].place, store.layout(list[i].layer), files[i]));
    }
    for (size_t i = 0; i < list.size(); i++) store.replace(list[i].layer, list[i].expert, std::move(files[i]), list[i].place.offset, list[i].place.crc32c);
    return {};
}

/** replaceExperts([{layer, expert, path, offset, crc32c}, …]): between two steps. */
Status replace_in_reader(Call& call, napi_value& result) {
    napi_env env = call.env;
    ExpertReaderHandle* handle = nullptr;
    uint32_t count = 0;
    std::vector<Replacement> list;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    const RoutingShape shape = handle->shape;
    TMOE_RETURN_IF_ERROR(read_array(env, call.args[0], "experts", count));
    for (uint32_t i = 0; i < count; i++) {
        const std::string at = format("experts[%u]", i);
        napi_value item = nullptr;
        int64_t layer = 0, expert = 0;
        Replacement one;
        TMOE_RETURN_IF_ERROR(read_element(env, call.args[0], i, item));
        TMOE_RETURN_IF_ERROR(read_version_place(env, item, at, one.place));
        TMOE_RETURN_IF_ERROR(read_integer(env, item, at.c_str(), "layer", 0, static_cast<int64_t>(shape.layers) - 1, layer));
        TMOE_RETURN_IF_ERROR(read_integer(env, item, at.c_str(), "expert", 0, static_cast<int64_t>(shape.experts) - 1, expert));
        one.layer = static_cast<uint32_t>(layer);
        one.expert = static_cast<uint32_t>(expert);
        list.push_back(std::move(one));
    }
    if (!handle->store) return reader_disposed();  // by a getter of the list
    return start_work(call, *handle, [list = std::move(list)](ExpertStore& store) { return replace_in_store(store, list); }, result);
}

/** A version's bytes, for whoever keeps it beside the expert's usual place. */
class VersionTask : public Task {
  public:
    VersionTask(uint32_t layer, uint32_t expert, VersionPlace place, ExpertLayout layout) : layer_(layer), expert_(expert), place_(std::move(place)), layout_(layout) {}
    Status run(const Ticket&) override {
        TMOE_RETURN_IF_ERROR(memory_.allocate(layout_.bytes + kBlobAlignment));
        return read_version(layer_, expert_, place_, layout_, blob_begin(memory_.data()));
    }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        void* data = nullptr;
        if (napi_create_arraybuffer(environment.env, layout_.bytes, &data, &value) != napi_ok || !data) return exception_pending();
        memcpy(data, blob_begin(memory_.data()), layout_.bytes);
        memory_.release();
        return {};
    }

  private:
    uint32_t layer_, expert_;
    VersionPlace place_;
    ExpertLayout layout_;
    Buffer memory_;
};

/** readVersion({layer, expert, path, offset, crc32c}, {gate, up, down: types, width, hidden}) */
Status read_version_blob(Call& call, napi_value& result) {
    napi_env env = call.env;
    int64_t layer = 0, expert = 0;
    VersionPlace place;
    ExpertLayout layout;
    TMOE_RETURN_IF_ERROR(read_version_place(env, call.args[0], "version", place));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[0], "version", "layer", 0, UINT32_MAX, layer));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[0], "version", "expert", 0, UINT32_MAX, expert));
    TMOE_RETURN_IF_ERROR(read_layout(env, call.args[1], layout));
    auto task = std::make_shared<VersionTask>(static_cast<uint32_t>(layer), static_cast<uint32_t>(expert), std::move(place), layout);
    return start(call.environment, std::move(task), {}, result);
}

// Of an expert's file: that it has come, or that it has gone.
template <void (ExpertStore::*kTell)(uint32_t, uint32_t, const std::string&)> Status tell_of_file(Call& call, napi_value&) {
    ExpertReaderHandle* handle = nullptr;
    uint32_t layer = 0;
    int64_t expert = 0;
    std::string path;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    TMOE_RETURN_IF_ERROR(read_layer(call, handle->shape, layer));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[1], "expert", 0, static_cast<int64_t>(handle->shape.experts) - 1, expert));
    TMOE_RETURN_IF_ERROR(read_text(call.env, call.args[2], "path", path));
    ((*handle->store).*kTell)(layer, static_cast<uint32_t>(expert), path);
    return {};
}

Status reader_stats(Call& call, napi_value& result) {
    ExpertReaderHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    return store_counts(call.env, handle->store->counts(), result);
}

/** Per layer: bytes that were read ahead into host memory and evicted unused. */
Status reader_wasted(Call& call, napi_value& result) {
    ExpertReaderHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    const std::vector<StoreLayerCounts> layers = handle->store->layer_counts();
    if (napi_create_array_with_length(call.env, layers.size(), &result) != napi_ok) return exception_pending();
    for (uint32_t i = 0; i < layers.size(); i++) {
        if (napi_set_element(call.env, result, i, js_number(call.env, static_cast<double>(layers[i].prefetch_wasted))) != napi_ok) return exception_pending();
    }
    return {};
}

/** Residency and Model::kLocalBit of every expert, [layers][experts]. */
Status reader_residency(Call& call, napi_value& result) {
    ExpertReaderHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    const RoutingShape shape = handle->shape;
    napi_value buffer = nullptr;
    void* data = nullptr;
    if (napi_create_arraybuffer(call.env, shape.mask_size(), &data, &buffer) != napi_ok || !data) return exception_pending();
    const ExpertStore& store = *handle->store;
    const std::vector<Residency> residencies = store.residencies();
    for (size_t i = 0; i < shape.mask_size(); i++) {
        const auto layer = static_cast<uint32_t>(i / shape.experts), expert = static_cast<uint32_t>(i % shape.experts);
        static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(static_cast<uint8_t>(residencies[i]) | (store.local(layer, expert) ? Model::kLocalBit : 0));
    }
    return napi_create_typedarray(call.env, napi_uint8_array, shape.mask_size(), buffer, 0, &result) == napi_ok ? Status() : exception_pending();
}

/** Ends the reads, off the JavaScript thread. */
Status dispose_reader(Call& call, napi_value& result) {
    ExpertReaderHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    TMOE_RETURN_IF_ERROR(start_work(call, *handle, [](ExpertStore& store) {
        store.close();
        return Status();
    }, result));
    handle->dispose();
    return {};
}

}  // namespace

Status ExpertReaderHandle::lend(napi_value self, const uint8_t* blob, size_t bytes, napi_value& out) {
    const auto nothing = [](napi_env, void*, void*) {};
    napi_ref lent = nullptr;
    if (napi_create_external_arraybuffer(env_, const_cast<uint8_t*>(blob), bytes, nothing, nullptr, &out) != napi_ok) return exception_pending();
    define(env_, out, "reader", self);  // whoever holds the buffer holds the reader, and so the memory
    if (napi_create_reference(env_, out, 1, &lent) != napi_ok) return exception_pending();
    lent_.push_back(lent);
    return {};
}

napi_status bind_experts(Environment& environment, napi_value exports) {
    const Member reader[] = {{"begin", promising<begin_read>, nullptr},
                             {"next", promising<next_read>, nullptr},
                             {"prefetch", promising<prefetch_read>, nullptr},
                             {"setBudget", promising<set_reader_budget>, nullptr},
                             {"scrub", promising<scrub_reader>, nullptr},
                             {"adoptExperts", promising<adopt_into_reader>, nullptr},
                             {"replaceExperts", promising<replace_in_reader>, nullptr},
                             {"bringExpert", throwing<tell_of_file<&ExpertStore::bring>>, nullptr},
                             {"loseExpert", throwing<tell_of_file<&ExpertStore::lose>>, nullptr},
                             {"stats", throwing<reader_stats>, nullptr},
                             {"wastedBytes", throwing<reader_wasted>, nullptr},
                             {"residency", throwing<reader_residency>, nullptr},
                             {"createSlots", throwing<create_slots>, nullptr},
                             {"dispose", promising<dispose_reader>, nullptr}};
    napi_status status = define_class(environment, ClassId::ExpertReader, reader, sizeof reader / sizeof reader[0]);
    if (status == napi_ok) status = define_slots(environment);
    if (status == napi_ok) status = export_function(environment.env, exports, "openExperts", promising<open_reader>);
    return status == napi_ok ? export_function(environment.env, exports, "readVersion", promising<read_version_blob>) : status;
}

}  // namespace tmoe
