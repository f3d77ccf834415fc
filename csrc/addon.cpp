// The addon's entry: per-environment state, and the exports of each area.
#include "napi/bindings.h"

NAPI_MODULE_INIT() {
    using namespace tmoe;
    pin_library();
    Environment* environment = nullptr;
    napi_status status = attach_environment(env, environment);
    for (const auto bind : {bind_system, bind_gguf, bind_checkpoint, bind_backend, bind_model, bind_experts, bind_trace, bind_shaders})
        if (status == napi_ok) status = bind(*environment, exports);
    if (status == napi_ok) return exports;
    napi_throw_error(env, "ADDON_UNAVAILABLE", "the addon could not set up its environment");
    return nullptr;
}
