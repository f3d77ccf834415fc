// A model's prefix cache: what sequences share, and what it holds.
#include "napi/bindings.h"

namespace tmoe {

namespace {

constexpr int64_t kMostEpochs = int64_t{1} << 52, kMostBytes = int64_t{1} << 52;

}  // namespace

Status read_prefix_scope(napi_env env, napi_value value, const Model& model, PrefixScope& out) {
    const char* at = "options.prefix";
    int64_t epoch = 0;
    napi_value enabled = nullptr;
    TMOE_RETURN_IF_ERROR(require_object(env, value, at));
    TMOE_RETURN_IF_ERROR(read_text(env, value, at, "salt", out.salt));
    TMOE_RETURN_IF_ERROR(read_integer(env, value, at, "epoch", 0, kMostEpochs, epoch));
    out.epoch = static_cast<uint64_t>(epoch);
    TMOE_RETURN_IF_ERROR(read_property(env, value, "enabled", enabled));
    if (is_undefined(env, enabled)) return {};
    ArrayView mask;
    TMOE_RETURN_IF_ERROR(read_typed_array(env, enabled, "options.prefix.enabled", napi_uint8_array, model.routing().mask_size(), mask));
    out.enabled.assign(mask.as<uint8_t>(), mask.as<uint8_t>() + model.routing().mask_size());
    return {};
}

// {limitBytes, bytes, idleBytes, hits, misses, reusedTokens, evictions}; undefined where sequences share nothing.
Status prefix_stats(Call& call, napi_value& result) {
    ModelHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    if (!handle->model->prefix()) return {};
    const PrefixCounts counts = handle->model->prefix()->counts();
    const std::pair<const char*, uint64_t> numbers[] = {{"limitBytes", counts.limit}, {"bytes", counts.held},        {"idleBytes", counts.idle}, {"hits", counts.hits},
                                                        {"misses", counts.misses},    {"reusedTokens", counts.reused}, {"evictions", counts.evictions}};
    if (napi_create_object(call.env, &result) != napi_ok) return exception_pending();
    for (const auto& [name, value] : numbers) define(call.env, result, name, js_number(call.env, static_cast<double>(value)));
    return {};
}

Status evict_prefixes(Call& call, napi_value& result) {
    ModelHandle* handle = nullptr;
    int64_t bytes = 0;
    TMOE_RETURN_IF_ERROR(unwrap_model(call, handle));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "bytes", 0, kMostBytes, bytes));
    PrefixCache* prefix = handle->model->prefix();
    result = js_number(call.env, prefix ? static_cast<double>(prefix->evict(static_cast<uint64_t>(bytes))) : 0);
    return {};
}

}  // namespace tmoe
