// simulateCache: a recorded trace against a cache of any size and policy.
#include <cstring>

#include "core/memory.h"
#include "core/store/simulator.h"
#include "napi/bindings.h"

namespace tmoe {

namespace {

constexpr int64_t kMostSlots = int64_t{1} << 31;

class SimulateTask : public Task {
  public:
    Status read(Call& call);
    Status run(const Ticket&) override {
        Trace trace = shape_;
        trace.words = words_.as<uint32_t>();
        trace.count = words_.size() / sizeof(uint32_t);
        return simulate(trace, options_, out_);
    }
    Status result(Environment& environment, napi_value, napi_value& value) override;

  private:
    Status read_policy(Call& call);

    Trace shape_;
    Buffer words_;                  // a copy: the caller's memory may change or go
    SimulationOptions options_;
    Simulation out_;
};

Status SimulateTask::read_policy(Call& call) {
    static const struct {
        const char* name;
        SimulatedPolicy simulated;
        CachePolicy policy;
    } names[] = {
        {"lru", SimulatedPolicy::Cache, CachePolicy::Lru},           {"lfu", SimulatedPolicy::Cache, CachePolicy::Lfu},
        {"mix", SimulatedPolicy::Cache, CachePolicy::Mix},           {"adaptive", SimulatedPolicy::Cache, CachePolicy::Adaptive},
        {"arc", SimulatedPolicy::Arc, CachePolicy::Lru},             {"optimum", SimulatedPolicy::Optimum, CachePolicy::Lru},
    };
    std::string policy;
    TMOE_RETURN_IF_ERROR(read_text(call.env, call.args[1], "options", "policy", policy));
    for (const auto& entry : names) {
        if (policy != entry.name) continue;
        options_.policy = entry.simulated;
        options_.cache.policy = entry.policy;
        return {};
    }
    napi_value given = nullptr;
    TMOE_RETURN_IF_ERROR(read_property(call.env, call.args[1], "policy", given));
    return invalid_argument(call.env, "options.policy", "lru, lfu, mix, adaptive, arc or optimum", given);
}

Status SimulateTask::read(Call& call) {
    napi_env env = call.env;
    napi_value trace = call.args[0], options = call.args[1], words = nullptr, mix = nullptr;
    int64_t layers = 0, experts = 0, slots = 0, recorded = 0, seed = 0;
    TMOE_RETURN_IF_ERROR(require_object(env, trace, "trace"));
    TMOE_RETURN_IF_ERROR(require_object(env, options, "options"));
    TMOE_RETURN_IF_ERROR(read_integer(env, trace, "trace", "layers", 1, kMaxCacheEntries, layers));
    TMOE_RETURN_IF_ERROR(read_integer(env, trace, "trace", "experts", 1, kMaxCacheEntries, experts));
    TMOE_RETURN_IF_ERROR(read_integer(env, trace, "trace", "slots", 0, kMostSlots, recorded));
    TMOE_RETURN_IF_ERROR(read_integer(env, options, "options", "slots", 1, kMostSlots, slots));
    TMOE_RETURN_IF_ERROR(read_integer(env, options, "options", "seed", 0, UINT32_MAX, seed));
    TMOE_RETURN_IF_ERROR(read_boolean(env, options, "options", "decisions", options_.decisions));
    TMOE_RETURN_IF_ERROR(read_policy(call));
    TMOE_RETURN_IF_ERROR(read_property(env, options, "mix", mix));
    TMOE_RETURN_IF_ERROR(read_property(env, trace, "words", words));
    shape_.layers = static_cast<size_t>(layers);
    shape_.experts = static_cast<size_t>(experts);
    options_.recorded_slots = static_cast<size_t>(recorded);
    options_.cache.slots = static_cast<size_t>(slots);
    options_.cache.seed = static_cast<uint32_t>(seed);
    ArrayView view;
    if (!is_undefined(env, mix)) {
        TMOE_RETURN_IF_ERROR(read_typed_array(env, mix, "options.mix", napi_float64_array, kMixTerms, view));
        memcpy(options_.cache.mix.data(), view.data, sizeof options_.cache.mix);
    }
    TMOE_RETURN_IF_ERROR(read_typed_array(env, words, "trace.words", napi_uint32_array, 0, view));
    if (view.bytes == 0) return {};
    TMOE_RETURN_IF_ERROR(words_.allocate(view.bytes));
    memcpy(words_.data(), view.data, view.bytes);
    return {};
}

Status SimulateTask::result(Environment& environment, napi_value, napi_value& value) {
    napi_env env = environment.env;
    napi_value layers = nullptr, buffer = nullptr, decisions = nullptr;
    void* data = nullptr;
    value = cache_counts_object(env, out_.counts);
    if (!value || napi_create_array_with_length(env, out_.layers.size(), &layers) != napi_ok) return exception_pending();
    for (size_t l = 0; l < out_.layers.size(); l++) {
        napi_value counts = cache_counts_object(env, out_.layers[l]);
        if (!counts || napi_set_element(env, layers, static_cast<uint32_t>(l), counts) != napi_ok) return exception_pending();
    }
    define(env, value, "layers", layers);
    if (!options_.decisions) return {};
    const size_t bytes = out_.decisions.size() * sizeof(uint32_t);
    if (napi_create_arraybuffer(env, bytes, &data, &buffer) != napi_ok) return exception_pending();
    if (bytes > 0) memcpy(data, out_.decisions.data(), bytes);
    if (napi_create_typedarray(env, napi_uint32_array, out_.decisions.size(), buffer, 0, &decisions) != napi_ok) return exception_pending();
    define(env, value, "decisions", decisions);
    return {};
}

Status simulate_cache(Call& call, napi_value& result) {
    auto task = std::make_shared<SimulateTask>();
    TMOE_RETURN_IF_ERROR(task->read(call));
    return start(call.environment, std::move(task), {}, result);
}

}  // namespace

napi_value cache_counts_object(napi_env env, const CacheCounts& counts) {
    napi_value out = nullptr;
    if (napi_create_object(env, &out) != napi_ok) return nullptr;
    define(env, out, "uses", js_number(env, static_cast<double>(counts.uses)));
    define(env, out, "hits", js_number(env, static_cast<double>(counts.hits)));
    define(env, out, "misses", js_number(env, static_cast<double>(counts.misses)));
    define(env, out, "evictions", js_number(env, static_cast<double>(counts.evictions)));
    define(env, out, "prefetches", js_number(env, static_cast<double>(counts.prefetches)));
    define(env, out, "waves", js_number(env, static_cast<double>(counts.waves)));
    return out;
}

napi_status bind_trace(Environment& environment, napi_value exports) {
    return export_function(environment.env, exports, "simulateCache", promising<simulate_cache>);
}

}  // namespace tmoe
