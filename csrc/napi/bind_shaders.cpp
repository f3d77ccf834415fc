// shaderText(name) and shaderNames(): the embedded WGSL. lib/backends/webgpu/specialise.ts makes shaders of it.
#include "napi/bindings.h"
#include "napi/shader_table.h"

namespace tmoe {

namespace {

/** undefined where there is no such file. */
Status shader_text(Call& call, napi_value& result) {
    std::string name;
    TMOE_RETURN_IF_ERROR(read_text(call.env, call.args[0], "name", name));
    const ShaderTable table = embedded_shaders();
    for (size_t i = 0; i < table.count; i++) {
        if (name == table.files[i].name) result = js_text(call.env, std::string(table.files[i].text, table.files[i].bytes));
    }
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
    const napi_status status = export_function(environment.env, exports, "shaderText", throwing<shader_text>);
    return status == napi_ok ? export_function(environment.env, exports, "shaderNames", throwing<shader_names>) : status;
}

}  // namespace tmoe
