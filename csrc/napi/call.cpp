#include "napi/call.h"

namespace tmoe {

napi_value rejected(Environment& environment, const Status& status) {
    napi_value promise = nullptr;
    napi_deferred deferred = nullptr;
    napi_value error = take_error(environment, status);
    if (!error || napi_create_promise(environment.env, &deferred, &promise) != napi_ok) return nullptr;
    napi_reject_deferred(environment.env, deferred, error);
    return promise;
}

napi_status export_function(napi_env env, napi_value exports, const char* name, napi_callback function) {
    napi_value value = nullptr;
    const napi_status status = napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value);
    return status == napi_ok ? napi_set_named_property(env, exports, name, value) : status;
}

napi_value js_number(napi_env env, double value) {
    napi_value out = nullptr;
    napi_create_double(env, value, &out);
    return out;
}

napi_value js_text(napi_env env, const std::string& value) {
    napi_value out = nullptr;
    napi_create_string_utf8(env, value.data(), value.size(), &out);
    return out;
}

void define(napi_env env, napi_value object, const std::string& key, napi_value value) {
    napi_property_descriptor property = {};
    property.name = js_text(env, key);
    property.value = value;
    property.attributes = static_cast<napi_property_attributes>(napi_writable | napi_enumerable | napi_configurable);
    if (property.name && value) napi_define_properties(env, object, 1, &property);
}

}  // namespace tmoe
