#include "napi/sampling_args.h"

#include <cstring>

#include "napi/args.h"
#include "napi/call.h"

namespace tmoe {

namespace {

Status read_optional_tokens(napi_env env, napi_value object, const std::string& at, const char* key, std::vector<int32_t>& out) {
    napi_value value = nullptr;
    TMOE_RETURN_IF_ERROR(read_property(env, object, key, value));
    return is_undefined(env, value) ? Status() : read_tokens(env, value, at + "." + key, out);
}

Status read_optional_words(napi_env env, napi_value object, const std::string& at, const char* key, std::vector<uint32_t>& out) {
    napi_value value = nullptr;
    ArrayView view;
    TMOE_RETURN_IF_ERROR(read_property(env, object, key, value));
    if (is_undefined(env, value)) return {};
    TMOE_RETURN_IF_ERROR(read_typed_array(env, value, (at + "." + key).c_str(), napi_uint32_array, 1, view));
    out.assign(view.as<uint32_t>(), view.as<uint32_t>() + view.length);
    return {};
}

napi_value typed_array(napi_env env, napi_typedarray_type type, const void* from, size_t length) {
    void* data = nullptr;
    napi_value buffer = nullptr, out = nullptr;
    if (napi_create_arraybuffer(env, length * 4, &data, &buffer) != napi_ok) return nullptr;
    if (length > 0) memcpy(data, from, length * 4);
    napi_create_typedarray(env, type, length, buffer, 0, &out);
    return out;
}

}  // namespace

Status read_tokens(napi_env env, napi_value value, const std::string& argument, std::vector<int32_t>& out) {
    ArrayView view;
    TMOE_RETURN_IF_ERROR(read_typed_array(env, value, argument.c_str(), napi_int32_array, 0, view));
    out.assign(view.as<int32_t>(), view.as<int32_t>() + view.length);
    return {};
}

Status read_sampling(napi_env env, napi_value value, const std::string& at, SamplingParams& out) {
    const char* path = at.c_str();
    double temperature = 0, top_p = 0, min_p = 0, penalty = 0;
    int64_t top_k = 0, top_logprobs = 0, seed = 0;
    TMOE_RETURN_IF_ERROR(require_object(env, value, at));
    TMOE_RETURN_IF_ERROR(read_number(env, value, path, "temperature", 0, kMostTemperature, temperature));
    TMOE_RETURN_IF_ERROR(read_integer(env, value, path, "topK", 0, INT32_MAX, top_k));
    TMOE_RETURN_IF_ERROR(read_number(env, value, path, "topP", 0, 1, top_p));
    TMOE_RETURN_IF_ERROR(read_number(env, value, path, "minP", 0, 1, min_p));
    TMOE_RETURN_IF_ERROR(read_number(env, value, path, "repetitionPenalty", kLeastPenalty, kMostPenalty, penalty));
    TMOE_RETURN_IF_ERROR(read_integer(env, value, path, "seed", 0, kLargestInteger, seed));
    TMOE_RETURN_IF_ERROR(read_integer(env, value, path, "topLogprobs", -1, kMostLogprobs, top_logprobs));
    TMOE_RETURN_IF_ERROR(read_optional_tokens(env, value, at, "recent", out.recent));
    TMOE_RETURN_IF_ERROR(read_optional_tokens(env, value, at, "banned", out.banned));
    TMOE_RETURN_IF_ERROR(read_optional_words(env, value, at, "allowed", out.allowed));
    out.temperature = static_cast<float>(temperature);
    out.top_k = static_cast<int32_t>(top_k);
    out.top_p = static_cast<float>(top_p);
    out.min_p = static_cast<float>(min_p);
    out.repetition_penalty = static_cast<float>(penalty);
    out.seed = static_cast<uint64_t>(seed);
    out.top_logprobs = static_cast<int32_t>(top_logprobs);
    return {};
}

Status define_sampled(napi_env env, napi_value object, const Sampled& sampled) {
    napi_value top = nullptr;
    define(env, object, "token", js_number(env, sampled.token));
    if (!sampled.has_logprob) return {};
    define(env, object, "logprob", js_number(env, sampled.logprob));
    if (napi_create_object(env, &top) != napi_ok) return exception_pending();
    define(env, top, "ids", typed_array(env, napi_int32_array, sampled.top_ids.data(), sampled.top_ids.size()));
    define(env, top, "logprobs", typed_array(env, napi_float32_array, sampled.top_logprobs.data(), sampled.top_logprobs.size()));
    define(env, object, "top", top);
    return {};
}

}  // namespace tmoe
