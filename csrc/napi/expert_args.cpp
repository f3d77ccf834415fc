#include "napi/expert_args.h"

#include <cstring>

namespace tmoe {

namespace {

constexpr int64_t kMostOffset = int64_t{1} << 52;   // of bytes in a file, and of epochs

}  // namespace

Status words_array(napi_env env, const uint32_t* words, size_t count, napi_value& out) {
    napi_value buffer = nullptr;
    void* data = nullptr;
    if (napi_create_arraybuffer(env, count * sizeof(uint32_t), &data, &buffer) != napi_ok) return exception_pending();
    if (count > 0) memcpy(data, words, count * sizeof(uint32_t));
    return napi_create_typedarray(env, napi_uint32_array, count, buffer, 0, &out) == napi_ok ? Status() : exception_pending();
}

Status read_ids(Call& call, size_t argument, const char* name, std::vector<uint32_t>& out) {
    ArrayView view;
    TMOE_RETURN_IF_ERROR(read_typed_array(call.env, call.args[argument], name, napi_uint32_array, 0, view));
    out.assign(view.as<uint32_t>(), view.as<uint32_t>() + view.length);
    return {};
}

Status read_layer(Call& call, const RoutingShape& shape, uint32_t& out) {
    int64_t layer = 0;
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "layer", 0, static_cast<int64_t>(shape.layers) - 1, layer));
    out = static_cast<uint32_t>(layer);
    return {};
}

Status read_step(napi_env env, napi_value value, StepShape& out) {
    const struct {
        const char* name;
        uint32_t& to;
    } fields[] = {{"sequences", out.sequences}, {"rows", out.rows}, {"prefillRows", out.prefill_rows}};
    TMOE_RETURN_IF_ERROR(require_object(env, value, "step"));
    for (const auto& [name, to] : fields) {
        int64_t count = 0;
        TMOE_RETURN_IF_ERROR(read_integer(env, value, "step", name, 0, UINT32_MAX, count));
        to = static_cast<uint32_t>(count);
    }
    return {};
}

Status read_version_place(napi_env env, napi_value value, const std::string& at, VersionPlace& out) {
    int64_t epoch = 0, offset = 0, crc = 0;
    napi_value path = nullptr;
    TMOE_RETURN_IF_ERROR(require_object(env, value, at));
    TMOE_RETURN_IF_ERROR(read_integer(env, value, at.c_str(), "epoch", 0, kMostOffset, epoch));
    TMOE_RETURN_IF_ERROR(read_property(env, value, "path", path));
    out.epoch = static_cast<uint64_t>(epoch);
    if (is_undefined(env, path)) return {};  // what the model was loaded with
    TMOE_RETURN_IF_ERROR(read_text(env, path, at + ".path", out.path));
    TMOE_RETURN_IF_ERROR(read_integer(env, value, at.c_str(), "offset", 0, kMostOffset, offset));
    TMOE_RETURN_IF_ERROR(read_integer(env, value, at.c_str(), "crc32c", 0, UINT32_MAX, crc));
    out.offset = static_cast<uint64_t>(offset);
    out.crc32c = static_cast<uint32_t>(crc);
    return {};
}

Status reader_disposed() { return Status(StatusCode::MODEL_NOT_LOADED, "the reader of experts was disposed"); }

Status unwrap_reader(Call& call, ExpertReaderHandle*& out) {
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", out));
    return out->store ? Status() : reader_disposed();
}

}  // namespace tmoe
