// shader(name, defines) and shaderNames(): the embedded WGSL, specialised.
#include "napi/bindings.h"
#include "shaders/specialise.h"

namespace tmoe {

namespace {

/** A define's value as text: a string, an integer or a boolean. */
Status read_define(napi_env env, napi_value value, const std::string& name, std::string& out) {
    napi_valuetype type = napi_undefined;
    napi_typeof(env, value, &type);
    if (type == napi_string) return read_text(env, value, name, out);
    if (type == napi_boolean) {
        bool truth = false;
        TMOE_RETURN_IF_ERROR(read_boolean(env, value, name, truth));
        out = truth ? "true" : "false";
        return {};
    }
    int64_t number = 0;
    TMOE_RETURN_IF_ERROR(read_integer(env, value, name, INT32_MIN, UINT32_MAX, number));
    out = std::to_string(number);
    return {};
}

Status read_defines(napi_env env, napi_value object, Defines& out) {
    TMOE_RETURN_IF_ERROR(require_object(env, object, "defines"));
    napi_value names = nullptr;
    uint32_t count = 0;
    if (napi_get_property_names(env, object, &names) != napi_ok) return exception_pending();
    TMOE_RETURN_IF_ERROR(read_array(env, names, "defines", count));
    for (uint32_t i = 0; i < count; i++) {
        napi_value key = nullptr, value = nullptr;
        std::string name;
        TMOE_RETURN_IF_ERROR(read_element(env, names, i, key));
        TMOE_RETURN_IF_ERROR(read_text(env, key, "defines", name));
        if (napi_get_property(env, object, key, &value) != napi_ok) return exception_pending();
        TMOE_RETURN_IF_ERROR(read_define(env, value, "defines." + name, out[name]));
    }
    return {};
}

Status shader(Call& call, napi_value& result) {
    std::string name, text;
    Defines defines;
    TMOE_RETURN_IF_ERROR(read_text(call.env, call.args[0], "name", name));
    TMOE_RETURN_IF_ERROR(read_defines(call.env, call.args[1], defines));
    TMOE_RETURN_IF_ERROR(specialise(embedded_shaders(), name, defines, text));
    result = js_text(call.env, text);
    return {};
}

Status shader_names(Call& call, napi_value& result) {
    const ShaderTable table = embedded_shaders();
    if (napi_create_array_with_length(call.env, table.count, &result) != napi_ok) return exception_pending();
    for (size_t i = 0; i < table.count; i++) {
        if (napi_set_element(call.env, result, static_cast<uint32_t>(i), js_text(call.env, table.files[i].name)) != napi_ok) {
            return exception_pending();
        }
    }
    return {};
}

}  // namespace

napi_status bind_shaders(Environment& environment, napi_value exports) {
    const napi_status status = export_function(environment.env, exports, "shader", throwing<shader>);
    return status == napi_ok ? export_function(environment.env, exports, "shaderNames", throwing<shader_names>) : status;
}

}  // namespace tmoe
