#include "napi/file_args.h"

#include "core/gguf.h"

namespace tmoe {

Status read_u32(napi_env env, napi_value object, const char* key, std::vector<uint32_t>& out) {
    napi_value value = nullptr;
    ArrayView view;
    TMOE_RETURN_IF_ERROR(read_property(env, object, key, value));
    TMOE_RETURN_IF_ERROR(read_typed_array(env, value, key, napi_uint32_array, 0, view));
    out.assign(view.as<uint32_t>(), view.as<uint32_t>() + view.length);
    return {};
}

Status read_offsets(napi_env env, napi_value object, const char* key, std::vector<uint64_t>& out) {
    napi_value value = nullptr;
    ArrayView view;
    TMOE_RETURN_IF_ERROR(read_property(env, object, key, value));
    TMOE_RETURN_IF_ERROR(read_typed_array(env, value, key, napi_float64_array, 0, view));
    out.resize(view.length);
    for (size_t i = 0; i < view.length; i++) {
        const double offset = view.as<double>()[i];
        if (!(offset >= 0 && offset <= static_cast<double>(kMostBytes) && offset == static_cast<double>(static_cast<uint64_t>(offset)))) {
            return Status(StatusCode::VALIDATION_ERROR, format("%s[%zu]: expected a byte position, got %g", key, i, offset)).with("argument", key);
        }
        out[i] = static_cast<uint64_t>(offset);
    }
    return {};
}

Status read_dtype(napi_env env, napi_value object, const char* path, const char* key, DType& out) {
    std::string name;
    TMOE_RETURN_IF_ERROR(read_text(env, object, path, key, name));
    for (const DTypeInfo& info : kDTypes) {
        if (name != info.name) continue;
        out = info.type;
        return {};
    }
    const std::string argument = std::string(path) + "." + key;
    return Status(StatusCode::VALIDATION_ERROR, argument + ": expected " + supported_type_names() + ", got " + name)
        .with("argument", argument)
        .with("expected", supported_type_names())
        .with("actual", name);
}

}  // namespace tmoe
