#include "napi/errors.h"

namespace tmoe {

namespace {

napi_value text(napi_env env, const std::string& value) {
    napi_value out = nullptr;
    napi_create_string_utf8(env, value.data(), value.size(), &out);
    return out;
}

napi_value details_of(napi_env env, const Status& status) {
    napi_value details = nullptr;
    if (napi_create_object(env, &details) != napi_ok) return nullptr;
    for (const Detail& detail : status.details()) {
        napi_value value = nullptr;
        if (detail.is_text) {
            value = text(env, detail.text);
        } else {
            napi_create_double(env, detail.number, &value);
        }
        if (value) napi_set_named_property(env, details, detail.key.c_str(), value);
    }
    return details;
}

bool is_pending(napi_env env) {
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    return pending;
}

}  // namespace

Status exception_pending() { return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, "a JavaScript exception is pending"); }

napi_value make_error(Environment& environment, const Status& status) {
    napi_env env = environment.env;
    napi_value code = text(env, status_code_name(status.code())), message = text(env, status.message());
    if (environment.make_error) {
        napi_value factory = nullptr, undefined = nullptr, error = nullptr;
        napi_get_reference_value(env, environment.make_error, &factory);
        napi_get_undefined(env, &undefined);
        napi_value args[] = {code, message, details_of(env, status)};
        if (factory && args[2] && napi_call_function(env, undefined, factory, 3, args, &error) == napi_ok && error) return error;
        if (is_pending(env)) {
            napi_value ignored = nullptr;
            napi_get_and_clear_last_exception(env, &ignored);
        }
    }
    napi_value error = nullptr;
    napi_create_error(env, code, message, &error);
    return error;
}

void throw_status(Environment& environment, const Status& status) {
    if (is_pending(environment.env)) return;
    napi_value error = make_error(environment, status);
    if (error) napi_throw(environment.env, error);
}

napi_value take_error(Environment& environment, const Status& status) {
    if (is_pending(environment.env)) {
        napi_value error = nullptr;
        if (napi_get_and_clear_last_exception(environment.env, &error) == napi_ok) return error;
        return nullptr;
    }
    return make_error(environment, status);
}

}  // namespace tmoe
