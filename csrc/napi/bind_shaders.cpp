// shader(name, defines, files) and shaderNames(): the embedded WGSL, specialised.
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

/** Own properties of an object, each read by `read(value, name)`. */
template <class Read> Status read_entries(napi_env env, napi_value object, const char* argument, Read read) {
    TMOE_RETURN_IF_ERROR(require_object(env, object, argument));
    napi_value names = nullptr;
    uint32_t count = 0;
    if (napi_get_property_names(env, object, &names) != napi_ok) return exception_pending();
    TMOE_RETURN_IF_ERROR(read_array(env, names, argument, count));
    for (uint32_t i = 0; i < count; i++) {
        napi_value key = nullptr, value = nullptr;
        std::string name;
        TMOE_RETURN_IF_ERROR(read_element(env, names, i, key));
        TMOE_RETURN_IF_ERROR(read_text(env, key, argument, name));
        if (napi_get_property(env, object, key, &value) != napi_ok) return exception_pending();
        TMOE_RETURN_IF_ERROR(read(value, name));
    }
    return {};
}

/** shader(name, defines, files = {}): `files` are looked up before the embedded ones. */
Status shader(Call& call, napi_value& result) {
    std::string name, text;
    Defines defines;
    std::vector<std::pair<std::string, std::string>> given;
    TMOE_RETURN_IF_ERROR(read_text(call.env, call.args[0], "name", name));
    TMOE_RETURN_IF_ERROR(read_entries(call.env, call.args[1], "defines", [&](napi_value value, const std::string& key) {
        return read_define(call.env, value, "defines." + key, defines[key]);
    }));
    if (!is_undefined(call.env, call.args[2])) {
        TMOE_RETURN_IF_ERROR(read_entries(call.env, call.args[2], "files", [&](napi_value value, const std::string& key) {
            given.emplace_back(key, std::string());
            return read_text(call.env, value, "files." + key, given.back().second);
        }));
    }
    std::vector<ShaderFile> files;
    for (const auto& file : given) files.push_back({file.first.c_str(), file.second.data(), file.second.size()});
    const ShaderTable embedded = embedded_shaders();
    files.insert(files.end(), embedded.files, embedded.files + embedded.count);
    TMOE_RETURN_IF_ERROR(specialise({files.data(), files.size()}, name, defines, text));
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
