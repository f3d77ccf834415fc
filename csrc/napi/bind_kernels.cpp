// backend.call and backend.callAsync: one kernel on caller-owned memory, on this thread (the CPU computes) or on the backend's (its device, if
// it has one). backend.prepare and backend.callPrepared: on this thread, with arguments that are checked once.
#include <cstring>

#include "napi/bindings.h"
#include "napi/kernel_calls.h"

namespace tmoe {

namespace {

const KernelEntry* find_kernel(const std::string& op) {
    for (const auto table : {moe_kernels, dense_kernels}) {
        const KernelEntry* entries = nullptr;
        const size_t count = table(entries);
        for (size_t i = 0; i < count; i++)
            if (op == entries[i].op) return &entries[i];
    }
    return nullptr;
}

Status read_call(Call& call, KernelArgs& args, KernelWork& work) {
    std::string op;
    bool naive = false;
    uint32_t count = 0;
    TMOE_RETURN_IF_ERROR(read_text(call.env, call.args[0], "op", op));
    TMOE_RETURN_IF_ERROR(read_array(call.env, call.args[1], "args", count));
    if (!is_undefined(call.env, call.args[2])) TMOE_RETURN_IF_ERROR(read_boolean(call.env, call.args[2], "naive", naive));
    const KernelEntry* entry = find_kernel(op);
    if (!entry) return Status(StatusCode::VALIDATION_ERROR, "op: there is no kernel " + op).with("argument", "op").with("actual", op);
    work = entry->read(args, naive);
    return args.status();
}

class KernelTask : public Task {
  public:
    KernelTask(std::shared_ptr<Backend> backend, KernelWork work, std::shared_ptr<void> copies)
        : backend_(std::move(backend)), work_(std::move(work)), copies_(std::move(copies)) {}
    Status run(const Ticket&) override {
        KernelScratch scratch;
        if (backend_->device) scratch.device = &backend_->device->kernels();
        return work_.run ? work_.run({*backend_->kernels, backend_->pool, nullptr}, scratch) : Status();
    }
    void release() override { backend_.reset(); }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        return work_.value ? work_.value(environment.env, value) : Status();
    }

  private:
    std::shared_ptr<Backend> backend_;
    KernelWork work_;
    std::shared_ptr<void> copies_;
};

Status run_here(Call& call, BackendHandle& handle, const KernelWork& work, napi_value& result) {
    if (work.run) {
        if (!handle.scratch) handle.scratch = std::make_unique<KernelScratch>();
        TMOE_RETURN_IF_ERROR(work.run({*handle.backend->kernels, handle.caller, nullptr}, *handle.scratch));
    }
    return work.value ? work.value(call.env, result) : Status();
}

}  // namespace

Status backend_call(Call& call, napi_value& result) {
    BackendHandle* handle = nullptr;
    KernelWork work;
    KernelArgs args(call.env, call.args[1], CallKind::Once);
    TMOE_RETURN_IF_ERROR(unwrap_backend(call, handle));
    TMOE_RETURN_IF_ERROR(read_call(call, args, work));
    if (!handle->backend) return backend_disposed();  // by a getter of the arguments
    return run_here(call, *handle, work, result);
}

/** prepare(op, args): checks everything that `call` checks. */
Status backend_prepare(Call& call, napi_value& result) {
    BackendHandle* handle = nullptr;
    KernelWork work;
    KernelArgs args(call.env, call.args[1], CallKind::Prepared);
    TMOE_RETURN_IF_ERROR(unwrap_backend(call, handle));
    TMOE_RETURN_IF_ERROR(read_call(call, args, work));
    return wrap(call.environment, std::make_unique<PreparedCallHandle>(call.env, std::move(work), args), result);
}

/** callPrepared(prepared, args): the same arguments once more. Of their arrays only is checked that their memory is where it was. */
Status backend_call_prepared(Call& call, napi_value& result) {
    BackendHandle* handle = nullptr;
    PreparedCallHandle* prepared = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_backend(call, handle));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[0], "prepared", prepared));
    for (const PreparedArray& array : prepared->arrays) {
        napi_value value = nullptr;
        napi_typedarray_type type;
        void* data = nullptr;
        size_t length = 0;
        const bool read = napi_get_element(call.env, call.args[1], array.index, &value) == napi_ok &&
                          napi_get_typedarray_info(call.env, value, &type, &length, &data, nullptr, nullptr) == napi_ok;
        if (!read || length != array.length || (length > 0 && data != array.data)) {
            return Status(StatusCode::VALIDATION_ERROR, "an array of the prepared call is gone: its memory was transferred").with("argument", "prepared");
        }
        if (array.copy) memcpy(array.copy, data, array.bytes);
    }
    return run_here(call, *handle, prepared->work, result);
}

napi_status bind_prepared(Environment& environment) { return define_class(environment, ClassId::PreparedCall, nullptr, 0); }

Status backend_call_async(Call& call, napi_value& result) {
    BackendHandle* handle = nullptr;
    KernelWork work;
    KernelArgs args(call.env, call.args[1], CallKind::Threaded);
    TMOE_RETURN_IF_ERROR(unwrap_backend(call, handle));
    TMOE_RETURN_IF_ERROR(read_call(call, args, work));
    if (!handle->backend) return backend_disposed();
    std::shared_ptr<Backend> backend = handle->backend;
    auto task = std::make_shared<KernelTask>(backend, std::move(work), args.copies);
    Keep keep;
    keep.values = std::move(args.keep);
    return start(call.environment, std::move(task), keep, backend->queue, result);
}

}  // namespace tmoe
