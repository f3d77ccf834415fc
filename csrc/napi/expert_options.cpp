#include "napi/expert_options.h"

#include <cmath>
#include <cstring>

#include "core/prefetcher.h"

namespace tmoe {

namespace {

constexpr int64_t kMostBytes = int64_t{1} << 52;
constexpr int64_t kMostIoThreads = 256;
constexpr int64_t kMostTraceWords = int64_t{1} << 30;
constexpr const char* kPolicies[] = {"lru", "lfu", "adaptive"};
constexpr const char* kPrefetch[] = {"off", "on", "auto"};

template <class Enum> Status read_choice(napi_env env, napi_value object, const std::string& at, const char* key, const char* const (&names)[3], Enum& out) {
    std::string text, allowed;
    TMOE_RETURN_IF_ERROR(read_text(env, object, at.c_str(), key, text));
    for (uint32_t i = 0; i < 3; i++) {
        if (text == names[i]) {
            out = static_cast<Enum>(i);
            return {};
        }
        allowed += (i == 0 ? "" : ", ") + std::string(names[i]);
    }
    return Status(StatusCode::VALIDATION_ERROR, at + "." + key + ": expected one of " + allowed + ", got " + text)
        .with("argument", at + "." + key)
        .with("expected", "one of " + allowed)
        .with("actual", text);
}

Status read_dtype(napi_env env, napi_value value, const std::string& at, DType& out) {
    std::string text;
    TMOE_RETURN_IF_ERROR(read_text(env, value, at, text));
    for (const DTypeInfo& info : kDTypes) {
        if (text != info.name) continue;
        out = info.type;
        return {};
    }
    return invalid_argument(env, at, "a weight type", value);
}

Status read_types(napi_env env, napi_value blobs, size_t layers, ExpertBlobs& out) {
    napi_value list = nullptr, triple = nullptr, name = nullptr;
    uint32_t length = 0;
    TMOE_RETURN_IF_ERROR(read_property(env, blobs, "types", list));
    TMOE_RETURN_IF_ERROR(read_array(env, list, "options.experts.blobs.types", length));
    if (length != layers) return invalid_argument(env, "options.experts.blobs.types", format("%zu layers", layers), list);
    out.types.resize(layers);
    for (uint32_t layer = 0; layer < length; layer++) {
        const std::string at = format("options.experts.blobs.types[%u]", layer);
        uint32_t parts = 0;
        TMOE_RETURN_IF_ERROR(read_element(env, list, layer, triple));
        TMOE_RETURN_IF_ERROR(read_array(env, triple, at, parts));
        if (parts != 3) return invalid_argument(env, at, "the types of gate, up and down", triple);
        DType* types[] = {&out.types[layer].gate, &out.types[layer].up, &out.types[layer].down};
        for (uint32_t part = 0; part < 3; part++) {
            TMOE_RETURN_IF_ERROR(read_element(env, triple, part, name));
            TMOE_RETURN_IF_ERROR(read_dtype(env, name, at, *types[part]));
        }
    }
    return {};
}

Status read_blobs(napi_env env, napi_value blobs, const Plan& plan, ExpertBlobs& out) {
    const std::string path = "options.experts.blobs";
    size_t layers = 0, experts = 0;
    for (const PlanOp& op : plan.ops) {
        if (op.kind != OpKind::Experts || op.gate >= plan.tensors.size() || plan.tensors[op.gate].shape.size() != 3) continue;
        layers++;
        experts = plan.tensors[op.gate].shape[2];
    }
    napi_value files = nullptr, array = nullptr;
    TMOE_RETURN_IF_ERROR(require_object(env, blobs, path));
    TMOE_RETURN_IF_ERROR(read_property(env, blobs, "files", files));
    TMOE_RETURN_IF_ERROR(read_texts(env, files, path + ".files", out.files));
    TMOE_RETURN_IF_ERROR(read_types(env, blobs, layers, out));
    // Every getter has run once the arrays are here; they are read at once, before JavaScript can run again.
    napi_value arrays[3] = {};
    const char* const names[] = {"fileIndex", "offset", "crc32c"};
    const napi_typedarray_type types[] = {napi_uint32_array, napi_float64_array, napi_uint32_array};
    ArrayView views[3];
    for (size_t i = 0; i < 3; i++) {
        TMOE_RETURN_IF_ERROR(read_property(env, blobs, names[i], array));
        arrays[i] = array;
    }
    for (size_t i = 0; i < 3; i++) TMOE_RETURN_IF_ERROR(read_typed_array(env, arrays[i], (path + "." + names[i]).c_str(), types[i], layers * experts, views[i]));
    out.places.assign(layers, std::vector<BlobPlace>(experts));
    for (size_t i = 0; i < layers * experts; i++) {
        const double offset = views[1].as<double>()[i];
        const uint32_t index = views[0].as<uint32_t>()[i];
        if ((index >= out.files.size() && index != kInArchive) || !(offset >= 0 && offset <= static_cast<double>(kMostBytes)) || std::fmod(offset, double{kBlobAlignment}) != 0) {
            return Status(StatusCode::VALIDATION_ERROR, format("%s: expert %zu of layer %zu has no valid place (file %u, offset %g)", path.c_str(), i % experts, i / experts, index, offset))
                .with("argument", path);
        }
        out.places[i / experts][i % experts] = {index, static_cast<uint64_t>(offset), views[2].as<uint32_t>()[i]};
    }
    return {};
}

}  // namespace

Status read_expert_options(napi_env env, napi_value options, const Plan& plan, ExpertOptions& out) {
    const char* path = "options.experts";
    int64_t budget = 0, reserve = 0, on_device = 0, whole = 0, key_values = 0, threads = 0, seed = 0, words = 0, scrub = 0;
    napi_value blobs = nullptr, trace = nullptr, checks = nullptr, device = nullptr, parts = nullptr;
    TMOE_RETURN_IF_ERROR(require_object(env, options, path));
    TMOE_RETURN_IF_ERROR(read_integer(env, options, path, "budgetBytes", 0, kMostBytes, budget));
    TMOE_RETURN_IF_ERROR(read_integer(env, options, path, "kvReserveBytes", 0, kMostBytes, reserve));
    TMOE_RETURN_IF_ERROR(read_integer(env, options, path, "ioThreads", 1, kMostIoThreads, threads));
    TMOE_RETURN_IF_ERROR(read_integer(env, options, path, "seed", 0, UINT32_MAX, seed));
    TMOE_RETURN_IF_ERROR(read_property(env, options, "traceWords", trace));
    if (!is_undefined(env, trace)) TMOE_RETURN_IF_ERROR(read_integer(env, trace, "options.experts.traceWords", 0, kMostTraceWords, words));
    TMOE_RETURN_IF_ERROR(read_property(env, options, "scrub", checks));
    if (!is_undefined(env, checks)) TMOE_RETURN_IF_ERROR(read_integer(env, checks, "options.experts.scrub", 0, UINT32_MAX, scrub));
    TMOE_RETURN_IF_ERROR(read_choice(env, options, path, "policy", kPolicies, out.policy));
    TMOE_RETURN_IF_ERROR(read_choice(env, options, path, "prefetch", kPrefetch, out.prefetch));
    TMOE_RETURN_IF_ERROR(read_property(env, options, "gpuBudgetBytes", device));
    if (!is_undefined(env, device)) TMOE_RETURN_IF_ERROR(read_integer(env, device, "options.experts.gpuBudgetBytes", 0, kMostBytes, on_device));
    TMOE_RETURN_IF_ERROR(read_property(env, options, "gpuParts", parts));
    if (!is_undefined(env, parts)) {
        const char* at = "options.experts.gpuParts";
        TMOE_RETURN_IF_ERROR(require_object(env, parts, at));
        TMOE_RETURN_IF_ERROR(read_integer(env, parts, at, "whole", 0, kMostBytes, whole));
        TMOE_RETURN_IF_ERROR(read_integer(env, parts, at, "keyValues", 0, kMostBytes, key_values));
    }
    out.device_bytes = static_cast<uint64_t>(on_device);
    out.device_kv_bytes = static_cast<uint64_t>(key_values);
    out.device_whole_bytes = static_cast<uint64_t>(whole);
    out.budget_bytes = static_cast<uint64_t>(budget);
    out.kv_reserve_bytes = static_cast<uint64_t>(reserve);
    out.trace_words = static_cast<size_t>(words);
    out.io_threads = static_cast<size_t>(threads);
    out.seed = static_cast<uint32_t>(seed);
    out.scrub = static_cast<size_t>(scrub);
    napi_value placement = nullptr;
    TMOE_RETURN_IF_ERROR(read_property(env, options, "placement", placement));
    if (!is_undefined(env, placement)) TMOE_RETURN_IF_ERROR(read_placement(env, placement, "options.experts.placement", 0, out.placement));
    TMOE_RETURN_IF_ERROR(read_property(env, options, "blobs", blobs));
    return is_undefined(env, blobs) ? Status() : read_blobs(env, blobs, plan, out.blobs);
}

Status read_placement(napi_env env, napi_value value, const char* argument, size_t experts, std::vector<uint8_t>& out) {
    ArrayView view;
    TMOE_RETURN_IF_ERROR(read_typed_array(env, value, argument, napi_uint8_array, experts, view));
    out.assign(view.as<uint8_t>(), view.as<uint8_t>() + (experts ? experts : view.length));
    for (uint8_t place : out) {
        if (place > static_cast<uint8_t>(Placement::Preferred)) return invalid_argument(env, argument, "numbers from 0 to 3", value);
    }
    return {};
}

// One entry per expert, [layers][experts]: the index of its file, or kInArchive where nothing changes.
Status read_adopted(napi_env env, napi_value places, RoutingShape shape, std::vector<std::string>& paths, std::vector<AdoptedExpert>& experts) {
    napi_value files = nullptr, index = nullptr, offset = nullptr;
    TMOE_RETURN_IF_ERROR(require_object(env, places, "places"));
    TMOE_RETURN_IF_ERROR(read_property(env, places, "files", files));
    TMOE_RETURN_IF_ERROR(read_texts(env, files, "places.files", paths));
    TMOE_RETURN_IF_ERROR(read_property(env, places, "fileIndex", index));
    TMOE_RETURN_IF_ERROR(read_property(env, places, "offset", offset));
    ArrayView indices, offsets;
    TMOE_RETURN_IF_ERROR(read_typed_array(env, index, "places.fileIndex", napi_uint32_array, shape.mask_size(), indices));
    TMOE_RETURN_IF_ERROR(read_typed_array(env, offset, "places.offset", napi_float64_array, shape.mask_size(), offsets));
    for (size_t i = 0; i < shape.mask_size(); i++) {
        const double at = offsets.as<double>()[i];
        if (indices.as<uint32_t>()[i] == kInArchive) continue;
        if (!(at >= 0 && at <= 9007199254740991.0)) return invalid_argument(env, "places.offset", "bytes from a file's begin", offset);
        experts.push_back({static_cast<uint32_t>(i / shape.experts), static_cast<uint32_t>(i % shape.experts), {indices.as<uint32_t>()[i], static_cast<uint64_t>(at), 0}});
    }
    return {};
}

Status read_policy(napi_env env, napi_value options, CachePolicy& out) { return read_choice(env, options, "options", "policy", kPolicies, out); }

Status read_prefetch(napi_env env, napi_value options, PrefetchMode& out) { return read_choice(env, options, "options", "prefetch", kPrefetch, out); }

Status store_counts(napi_env env, const StoreCounts& counts, napi_value& out) {
    const std::pair<const char*, uint64_t> numbers[] = {
        {"uses", counts.cache.uses},
        {"hits", counts.cache.hits - counts.late},
        {"late", counts.late},
        {"misses", counts.cache.misses},
        {"evictions", counts.cache.evictions},
        {"prefetches", counts.cache.prefetches},
        {"waves", counts.cache.waves},
        {"demandBytes", counts.demand_bytes},
        {"prefetchBytes", counts.prefetch_bytes},
        {"prefetchUsedBytes", counts.prefetch_used},
        {"prefetchWastedBytes", counts.prefetch_wasted},
        {"readErrors", counts.read_errors},
        {"residentBytes", counts.resident_bytes},
        {"budgetBytes", counts.budget_bytes},
    };
    if (napi_create_object(env, &out) != napi_ok) return exception_pending();
    for (const auto& [name, value] : numbers) define(env, out, name, js_number(env, static_cast<double>(value)));
    define(env, out, "waitMs", js_number(env, static_cast<double>(counts.wait_nanoseconds) / 1e6));
    define(env, out, "bookkeepingMs", js_number(env, static_cast<double>(counts.bookkeeping_nanoseconds) / 1e6));
    return {};
}

Status expert_stats(napi_env env, const Model& model, napi_value& out) {
    const ExpertStore* store = model.store();
    if (!store) return {};
    const RoutingShape& shape = model.routing();
    const DeviceExperts* slots = model.device_experts();
    StoreCounts counts = store->counts();
    std::vector<StoreLayerCounts> uses = store->layer_counts();
    std::vector<uint8_t> in_slot(shape.mask_size());
    double limit = static_cast<double>(model.expert_limit());
    if (slots) {
        const DeviceExperts::Counts own = slots->counts();
        napi_value host = nullptr;
        std::vector<uint8_t> placement;
        in_slot.clear();
        slots->whereabouts(in_slot, placement);
        TMOE_RETURN_IF_ERROR(store_counts(env, counts, host));
        counts = own.store;
        for (size_t i = 0; i < uses.size(); i++) {  // what was read for nothing stays the host's
            uses[i].cache = own.layers[i];
            uses[i].late = 0;
        }
        limit = static_cast<double>(counts.budget_bytes);
        TMOE_RETURN_IF_ERROR(store_counts(env, counts, out));
        define(env, out, "host", host);
        define(env, out, "uploads", js_number(env, static_cast<double>(own.uploads)));
        define(env, out, "uploadedBytes", js_number(env, static_cast<double>(own.uploaded_bytes)));
    } else {
        TMOE_RETURN_IF_ERROR(store_counts(env, counts, out));
    }
    define(env, out, "limitBytes", js_number(env, limit));
    define(env, out, "pressureEvents", js_number(env, static_cast<double>(model.pressure_events())));

    napi_value buffer = nullptr, residency = nullptr, layers = nullptr;
    void* data = nullptr;
    if (napi_create_arraybuffer(env, shape.mask_size(), &data, &buffer) != napi_ok || !data) return exception_pending();
    const std::vector<Residency> residencies = store->residencies();
    for (size_t i = 0; i < shape.mask_size(); i++) static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(in_slot[i] ? Residency::Resident : residencies[i]);
    if (napi_create_typedarray(env, napi_uint8_array, shape.mask_size(), buffer, 0, &residency) != napi_ok) return exception_pending();
    define(env, out, "residency", residency);

    const std::vector<Prefetcher::Layer> predictions = model.prefetcher()->layers();
    if (napi_create_array_with_length(env, shape.layers, &layers) != napi_ok) return exception_pending();
    for (size_t i = 0; i < shape.layers; i++) {
        napi_value layer = nullptr, active = nullptr;
        const Prefetcher::Layer& p = predictions[i];
        if (napi_create_object(env, &layer) != napi_ok || napi_get_boolean(env, p.active, &active) != napi_ok) return exception_pending();
        const CacheCounts& cache = uses[i].cache;
        const std::pair<const char*, uint64_t> own[] = {{"uses", cache.uses}, {"hits", cache.hits - uses[i].late}, {"late", uses[i].late}, {"misses", cache.misses},
                                                        {"predictable", p.wanted}, {"predicted", p.predicted}, {"present", p.present}, {"prefetches", p.asked},
                                                        {"prefetchWastedBytes", uses[i].prefetch_wasted}};
        for (const auto& [name, value] : own) define(env, layer, name, js_number(env, static_cast<double>(value)));
        define(env, layer, "prefetching", active);
        napi_set_element(env, layers, static_cast<uint32_t>(i), layer);
    }
    define(env, out, "layers", layers);
    return {};
}

Status expert_trace(napi_env env, const TraceLog* trace, napi_value& out) {
    if (!trace) return {};
    const std::vector<uint32_t> words = trace->words();
    const CacheOptions& cache = trace->cache;
    napi_value buffer = nullptr, array = nullptr, truncated = nullptr;
    void* data = nullptr;
    if (napi_create_object(env, &out) != napi_ok || napi_get_boolean(env, trace->truncated(), &truncated) != napi_ok ||
        napi_create_arraybuffer(env, words.size() * sizeof(uint32_t), &data, &buffer) != napi_ok) {
        return exception_pending();
    }
    if (!words.empty()) memcpy(data, words.data(), words.size() * sizeof(uint32_t));
    if (napi_create_typedarray(env, napi_uint32_array, words.size(), buffer, 0, &array) != napi_ok) return exception_pending();
    define(env, out, "layers", js_number(env, static_cast<double>(cache.layers)));
    define(env, out, "experts", js_number(env, static_cast<double>(cache.experts)));
    define(env, out, "slots", js_number(env, static_cast<double>(cache.slots)));
    define(env, out, "policy", js_text(env, kPolicies[static_cast<uint32_t>(cache.policy)]));
    define(env, out, "seed", js_number(env, cache.seed));
    define(env, out, "truncated", truncated);
    define(env, out, "words", array);
    return {};
}

}  // namespace tmoe
