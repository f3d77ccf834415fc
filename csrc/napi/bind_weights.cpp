// Methods of a backend that give other executors a model's weights in the kernels' layout: what there is, and any piece of it.
#include "core/tensor_loader.h"
#include "napi/bindings.h"
#include "napi/read_plan.h"
#include "quant/repack.h"

namespace tmoe {

namespace {

napi_value describe_weight(napi_env env, const PlanTensor& tensor, const Weight& w) {
    const bool packed = is_packed(w.role);
    const size_t group = packed ? kLanes : 1;
    napi_value out = nullptr;
    if (napi_create_object(env, &out) != napi_ok) return nullptr;
    define(env, out, "name", js_text(env, tensor.name));
    define(env, out, "type", js_text(env, dtype_info(w.type).name));
    define(env, out, "columns", js_number(env, static_cast<double>(w.columns)));
    define(env, out, "rows", js_number(env, static_cast<double>(w.rows)));
    define(env, out, "experts", js_number(env, static_cast<double>(w.experts)));
    define(env, out, "bytes", js_number(env, static_cast<double>(loaded_bytes(w))));
    define(env, out, "groupRows", js_number(env, static_cast<double>(group)));
    return out;
}

class ReadWeightTask : public Task {
  public:
    ReadWeightTask(std::shared_ptr<Backend> backend, std::shared_ptr<GgufFile> file, PlanTensor tensor, Weight weight, TensorPiece piece, uint8_t* to,
                   CancelFlag cancel)
        : backend_(std::move(backend)),
          file_(std::move(file)),
          tensor_(std::move(tensor)),
          weight_(std::move(weight)),
          piece_(piece),
          to_(to),
          cancel_(std::move(cancel)) {}
    Status run(const Ticket&) override {
        if (cancel_->load(std::memory_order_relaxed)) return load_cancelled();
        return TensorLoader(*backend_, *file_, cancel_.get()).load_piece(*file_->find(tensor_.file_name()), weight_, piece_, to_);
    }
    void release() override {
        weight_.data = {};
        file_.reset();
        backend_.reset();
    }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        if (napi_create_object(environment.env, &value) != napi_ok) return exception_pending();
        define(environment.env, value, "exponent", js_number(environment.env, weight_.exponent));
        return {};
    }

  private:
    std::shared_ptr<Backend> backend_;
    std::shared_ptr<GgufFile> file_;
    PlanTensor tensor_;
    Weight weight_;
    TensorPiece piece_;
    uint8_t* to_;
    CancelFlag cancel_;
};

Status file_closed() { return Status(StatusCode::VALIDATION_ERROR, "file: the file was closed").with("argument", "file"); }

Status read_piece(napi_env env, napi_value value, const Weight& w, TensorPiece& out) {
    int64_t expert = 0, first = 0, rows = 0;
    const bool packed = is_packed(w.role);
    TMOE_RETURN_IF_ERROR(require_object(env, value, "piece"));
    TMOE_RETURN_IF_ERROR(read_integer(env, value, "piece", "expert", 0, static_cast<int64_t>(w.experts) - 1, expert));
    TMOE_RETURN_IF_ERROR(read_integer(env, value, "piece", "firstRow", 0, static_cast<int64_t>(w.rows) - 1, first));
    TMOE_RETURN_IF_ERROR(read_integer(env, value, "piece", "rows", 1, static_cast<int64_t>(w.rows) - first, rows));
    if (packed && first % static_cast<int64_t>(kLanes) != 0) return invalid_argument(env, "piece.firstRow", format("a multiple of %zu", kLanes), value);
    out = {static_cast<size_t>(expert), static_cast<size_t>(first), static_cast<size_t>(rows)};
    return {};
}

}  // namespace

// describeWeights(file, plan)
Status describe_weights(Call& call, napi_value& result) {
    napi_env env = call.env;
    BackendHandle* backend = nullptr;
    GgufHandle* file = nullptr;
    Plan plan;
    TMOE_RETURN_IF_ERROR(unwrap_backend(call, backend));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[0], "file", file));
    TMOE_RETURN_IF_ERROR(read_plan(env, call.args[1], plan));
    TMOE_RETURN_IF_ERROR(validate(plan));
    if (!file->file) return file_closed();
    if (napi_create_array(env, &result) != napi_ok) return exception_pending();
    uint32_t index = 0;
    for (const PlanTensor& tensor : plan.tensors) {
        Weight weight;
        if (tensor.role == TensorRole::Experts) continue;
        TMOE_RETURN_IF_ERROR(describe_tensor(*file->file, tensor, weight));
        napi_set_element(env, result, index++, describe_weight(env, tensor, weight));
    }
    return {};
}

// readWeight(file, tensor, {expert, firstRow, rows, out}, cancel)
Status read_weight(Call& call, napi_value& result) {
    napi_env env = call.env;
    BackendHandle* backend = nullptr;
    GgufHandle* file = nullptr;
    CancelHandle* cancel = nullptr;
    PlanTensor tensor;
    Weight weight;
    TensorPiece piece;
    ArrayView view;
    napi_value out = nullptr;
    Keep keep;
    TMOE_RETURN_IF_ERROR(unwrap_backend(call, backend));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[0], "file", file));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[3], "cancel", cancel));
    TMOE_RETURN_IF_ERROR(read_plan_tensor(env, call.args[1], "tensor", tensor));
    if (!file->file) return file_closed();
    TMOE_RETURN_IF_ERROR(describe_tensor(*file->file, tensor, weight));
    TMOE_RETURN_IF_ERROR(read_piece(env, call.args[2], weight, piece));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[2], "out", out));
    TMOE_RETURN_IF_ERROR(read_typed_array(env, out, "piece.out", napi_uint8_array, piece_bytes(weight, piece), view));
    TMOE_RETURN_IF_ERROR(refuse_resizable(env, out, "piece.out"));
    keep.values.push_back(out);
    if (!backend->backend) return backend_disposed();  // by a getter above; so may the file be closed
    if (!file->file) return file_closed();
    std::shared_ptr<Backend> runs_on = backend->backend;
    JobQueue& queue = runs_on->queue;
    auto task = std::make_shared<ReadWeightTask>(runs_on, file->file, std::move(tensor), std::move(weight), piece, view.as<uint8_t>(), cancel->flag);
    return start(call.environment, std::move(task), keep, queue, result);
}

}  // namespace tmoe
