#include "napi/environment.h"

#include <dlfcn.h>

#include "napi/handles.h"
#include "napi/worker.h"

namespace tmoe {

namespace {

// Runs before Node finalizes what is left: no thread may reach this environment from here on, and references can still be deleted.
void leave(void* data) {
    auto* environment = static_cast<Environment*>(data);
    napi_env env = environment->env;
    environment->mailbox->close();
    for (auto& entry : environment->pending) entry.second.forget(env);
    environment->pending.clear();
    for (napi_ref& constructor : environment->constructors) {
        if (constructor) napi_delete_reference(env, constructor);
        constructor = nullptr;
    }
    if (environment->make_error) napi_delete_reference(env, environment->make_error);
    environment->make_error = nullptr;
}

void finalize_environment(napi_env, void* data, void*) { delete static_cast<Environment*>(data); }

}  // namespace

Environment::Environment(napi_env owner) : env(owner) {}
Environment::~Environment() = default;

Environment& Environment::of(napi_env env) {
    void* data = nullptr;
    napi_get_instance_data(env, &data);
    return *static_cast<Environment*>(data);
}

napi_status attach_environment(napi_env env, Environment*& out) {
    auto environment = std::make_unique<Environment>(env);
    napi_status status = Mailbox::create(env, environment->mailbox);
    if (status != napi_ok) return status;
    // After the mailbox: hooks run in reverse, and it must be closed before Node ends its thread-safe function.
    status = napi_add_env_cleanup_hook(env, leave, environment.get());
    if (status != napi_ok) return status;
    status = napi_set_instance_data(env, environment.get(), finalize_environment, nullptr);
    if (status != napi_ok) {
        napi_remove_env_cleanup_hook(env, leave, environment.get());
        return status;
    }
    out = environment.release();
    return napi_ok;
}

void pin_library() {
    Dl_info info;
    if (dladdr(reinterpret_cast<void*>(&pin_library), &info) == 0 || !info.dli_fname) return;
    (void)dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

}  // namespace tmoe
