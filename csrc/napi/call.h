// One shape for every exported function: arguments in, Status out, and the translation to JavaScript in one place.
#pragma once
#include "napi/args.h"
#include "napi/environment.h"
#include "napi/errors.h"

namespace tmoe {

inline constexpr size_t kMostArguments = 4;

/** The arguments of a call; those not given are undefined. */
struct Call {
    Environment& environment;
    napi_env env;
    napi_value self = nullptr;
    napi_value args[kMostArguments] = {};
};

/** A function of the addon. `result` may be left null, for undefined. */
using Function = Status (*)(Call& call, napi_value& result);

/** A promise that is rejected with a status's error. */
napi_value rejected(Environment& environment, const Status& status);

/** Throws where the function fails. */
template <Function F> napi_value throwing(napi_env env, napi_callback_info info) {
    Call call{Environment::of(env), env};
    size_t count = kMostArguments;
    napi_get_cb_info(env, info, &count, call.args, &call.self, nullptr);
    napi_value result = nullptr;
    const Status status = F(call, result);
    if (status.ok()) return result;
    throw_status(call.environment, status);
    return nullptr;
}

/** For functions that return a promise: rejects it where the function fails, for wrong arguments too. */
template <Function F> napi_value promising(napi_env env, napi_callback_info info) {
    Call call{Environment::of(env), env};
    size_t count = kMostArguments;
    napi_get_cb_info(env, info, &count, call.args, &call.self, nullptr);
    napi_value result = nullptr;
    const Status status = F(call, result);
    return status.ok() ? result : rejected(call.environment, status);
}

/** Adds a function to the addon's exports. */
napi_status export_function(napi_env env, napi_value exports, const char* name, napi_callback function);

// Building results. Each returns null when no JavaScript can run any more.
napi_value js_number(napi_env env, double value);
napi_value js_text(napi_env env, const std::string& value);
/** Sets an own property whatever the key is (`__proto__` too). */
void define(napi_env env, napi_value object, const std::string& key, napi_value value);

}  // namespace tmoe
