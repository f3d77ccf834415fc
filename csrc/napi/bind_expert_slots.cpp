// Who has a slot of a device's memory: decisions alone.
#include "napi/expert_args.h"
#include "napi/expert_options.h"

namespace tmoe {

namespace {

constexpr uint32_t kItemWords = 4;   // entry, slot, 1 where it was admitted, the entry that lost the slot

Status items_array(napi_env env, const std::vector<WaveItem>& items, napi_value& out) {
    std::vector<uint32_t> words;
    words.reserve(items.size() * kItemWords);
    for (const WaveItem& item : items) words.insert(words.end(), {item.entry, item.slot, item.admitted ? 1u : 0u, item.evicted});
    return words_array(env, words.data(), words.size(), out);
}

Status unwrap_slots(Call& call, HotExperts*& out) {
    ExpertSlotsHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", handle));
    out = handle->experts.get();
    return {};
}

RoutingShape shape_of(const HotExperts& hot) { return {hot.options().layers, hot.options().experts, 0}; }

Status slots_begin_step(Call& call, napi_value&) {
    HotExperts* hot = nullptr;
    StepShape step;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    TMOE_RETURN_IF_ERROR(read_step(call.env, call.args[0], step));
    hot->begin_step(step);
    return {};
}

/** beginLayer(layer, ids): the parts that hold slots now. */
Status slots_begin_layer(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    uint32_t layer = 0;
    ArrayView ids;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    TMOE_RETURN_IF_ERROR(read_layer(call, shape_of(*hot), layer));
    TMOE_RETURN_IF_ERROR(read_typed_array(call.env, call.args[1], "ids", napi_int32_array, 0, ids));
    TMOE_RETURN_IF_ERROR(hot->begin_layer(layer, ids.as<int32_t>(), ids.length));
    const CacheControl& control = hot->control();
    if (napi_create_array_with_length(call.env, control.parts(), &result) != napi_ok) return exception_pending();
    for (uint32_t i = 0; i < control.parts(); i++) {
        napi_value part = nullptr;
        TMOE_RETURN_IF_ERROR(items_array(call.env, control.part(i), part));
        if (napi_set_element(call.env, result, i, part) != napi_ok) return exception_pending();
    }
    return {};
}

/** advance(): the part that was added, or undefined. */
Status slots_advance(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    bool added = false;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    TMOE_RETURN_IF_ERROR(hot->advance(added));
    return added ? items_array(call.env, hot->control().part(hot->control().parts() - 1), result) : Status();
}

Status slots_end_layer(Call& call, napi_value&) {
    HotExperts* hot = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    hot->end_layer();
    return {};
}

/** drop(entries) */
Status slots_drop(Call& call, napi_value&) {
    HotExperts* hot = nullptr;
    std::vector<uint32_t> entries;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    TMOE_RETURN_IF_ERROR(read_ids(call, 0, "entries", entries));
    for (uint32_t entry : entries) {
        if (entry >= shape_of(*hot).mask_size()) return invalid_argument(call.env, "entries", "layer * experts + expert", call.args[0]);
    }
    for (uint32_t entry : entries) hot->drop(entry);
    return {};
}

Status slots_prefetch(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    uint32_t layer = 0;
    std::vector<uint32_t> experts;
    std::vector<WaveItem> admitted;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    TMOE_RETURN_IF_ERROR(read_layer(call, shape_of(*hot), layer));
    TMOE_RETURN_IF_ERROR(read_ids(call, 1, "experts", experts));
    hot->prefetch(layer, experts, admitted);
    return items_array(call.env, admitted, result);
}

Status slots_foresees(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    uint32_t layer = 0;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    TMOE_RETURN_IF_ERROR(read_layer(call, shape_of(*hot), layer));
    return napi_get_boolean(call.env, hot->foresees(layer), &result) == napi_ok ? Status() : exception_pending();
}

Status slots_foresee(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    uint32_t layer = 0;
    ArrayView ids;
    std::vector<WaveItem> admitted;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    TMOE_RETURN_IF_ERROR(read_layer(call, shape_of(*hot), layer));
    TMOE_RETURN_IF_ERROR(read_typed_array(call.env, call.args[1], "ids", napi_int32_array, 0, ids));
    hot->foresee(layer, ids.as<int32_t>(), ids.length, admitted);
    return items_array(call.env, admitted, result);
}

Status slots_fill(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    std::vector<WaveItem> admitted;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    hot->fill(admitted);
    return items_array(call.env, admitted, result);
}

Status slots_place(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    std::vector<uint8_t> placement;
    std::vector<WaveItem> admitted;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    TMOE_RETURN_IF_ERROR(read_placement(call.env, call.args[0], "placement", shape_of(*hot).mask_size(), placement));
    TMOE_RETURN_IF_ERROR(hot->place(placement.data(), admitted));
    return items_array(call.env, admitted, result);
}

Status slots_placement(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    napi_value buffer = nullptr;
    void* data = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    const auto entries = static_cast<uint32_t>(shape_of(*hot).mask_size());
    if (napi_create_arraybuffer(call.env, entries, &data, &buffer) != napi_ok || !data) return exception_pending();
    for (uint32_t entry = 0; entry < entries; entry++) static_cast<uint8_t*>(data)[entry] = hot->placement(entry);
    return napi_create_typedarray(call.env, napi_uint8_array, entries, buffer, 0, &result) == napi_ok ? Status() : exception_pending();
}

Status slots_resize(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    int64_t slots = 0;
    std::vector<uint32_t> evicted;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "slots", 0, kMaxCacheEntries, slots));
    TMOE_RETURN_IF_ERROR(hot->resize(static_cast<size_t>(slots), evicted));
    return words_array(call.env, evicted.data(), evicted.size(), result);
}

/** table(): each entry's slot, or 2^32 - 1. */
Status slots_table(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    std::vector<uint32_t> table(shape_of(*hot).mask_size());
    for (uint32_t entry = 0; entry < table.size(); entry++) {
        const int64_t slot = hot->control().cache().slot_of(entry);
        table[entry] = slot < 0 ? kNoEntry : static_cast<uint32_t>(slot);
    }
    return words_array(call.env, table.data(), table.size(), result);
}

/** counts(): all, and per layer; slots and those in use. */
Status slots_counts(Call& call, napi_value& result) {
    napi_env env = call.env;
    HotExperts* hot = nullptr;
    napi_value layers = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    const ExpertCache& cache = hot->control().cache();
    result = cache_counts_object(env, cache.counts());
    if (!result || napi_create_array_with_length(env, cache.layer_counts().size(), &layers) != napi_ok) return exception_pending();
    for (uint32_t i = 0; i < cache.layer_counts().size(); i++) {
        napi_value counts = cache_counts_object(env, cache.layer_counts()[i]), active = nullptr;
        if (!counts || napi_get_boolean(env, hot->brings_ahead(i), &active) != napi_ok) return exception_pending();
        const Foresight& seen = hot->foresight()[i];
        define(env, counts, "predictable", js_number(env, static_cast<double>(seen.wanted)));
        define(env, counts, "predicted", js_number(env, static_cast<double>(seen.predicted)));
        define(env, counts, "present", js_number(env, static_cast<double>(seen.present)));
        define(env, counts, "asked", js_number(env, static_cast<double>(seen.asked)));
        define(env, counts, "prefetching", active);
        if (napi_set_element(env, layers, i, counts) != napi_ok) return exception_pending();
    }
    define(env, result, "layers", layers);
    define(env, result, "slots", js_number(env, static_cast<double>(cache.slots())));
    define(env, result, "used", js_number(env, static_cast<double>(cache.used())));
    return {};
}

Status slots_trace(Call& call, napi_value& result) {
    HotExperts* hot = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap_slots(call, hot));
    return expert_trace(call.env, hot->options().trace.get(), result);
}

}  // namespace

/** createSlots({ slots, policy, prefetch, seed, traceWords }) */
Status create_slots(Call& call, napi_value& result) {
    napi_env env = call.env;
    ExpertReaderHandle* handle = nullptr;
    int64_t slots = 0, seed = 0, words = 0;
    HotOptions options;
    TMOE_RETURN_IF_ERROR(unwrap_reader(call, handle));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[0], "options"));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[0], "options", "slots", 0, kMaxCacheEntries, slots));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[0], "options", "seed", 0, UINT32_MAX, seed));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[0], "options", "traceWords", 0, INT32_MAX, words));
    TMOE_RETURN_IF_ERROR(read_policy(env, call.args[0], options.policy));
    PrefetchMode ahead = PrefetchMode::Off;
    TMOE_RETURN_IF_ERROR(read_prefetch(env, call.args[0], ahead));
    options.ahead = static_cast<HotOptions::Ahead>(ahead);
    if (!handle->store) return reader_disposed();  // by a getter of the options
    options.layers = handle->shape.layers;
    options.experts = handle->shape.experts;
    options.slots = static_cast<size_t>(slots);
    options.seed = static_cast<uint32_t>(seed);
    for (uint32_t layer = 0; layer < options.layers; layer++) options.slot_bytes = std::max(options.slot_bytes, handle->store->layout(layer).bytes);
    if (words > 0) options.trace = std::make_shared<TraceLog>(static_cast<size_t>(words));
    std::unique_ptr<HotExperts> experts;
    TMOE_RETURN_IF_ERROR(HotExperts::create(std::move(options), handle->store, experts));
    return wrap(call.environment, std::make_unique<ExpertSlotsHandle>(env, std::move(experts)), result);
}

napi_status define_slots(Environment& environment) {
    const Member slots[] = {{"beginStep", throwing<slots_begin_step>, nullptr},
                            {"beginLayer", throwing<slots_begin_layer>, nullptr},
                            {"advance", throwing<slots_advance>, nullptr},
                            {"endLayer", throwing<slots_end_layer>, nullptr},
                            {"drop", throwing<slots_drop>, nullptr},
                            {"prefetch", throwing<slots_prefetch>, nullptr},
                            {"foresees", throwing<slots_foresees>, nullptr},
                            {"foresee", throwing<slots_foresee>, nullptr},
                            {"fill", throwing<slots_fill>, nullptr},
                            {"place", throwing<slots_place>, nullptr},
                            {"placement", throwing<slots_placement>, nullptr},
                            {"resize", throwing<slots_resize>, nullptr},
                            {"table", throwing<slots_table>, nullptr},
                            {"counts", throwing<slots_counts>, nullptr},
                            {"trace", throwing<slots_trace>, nullptr}};
    return define_class(environment, ClassId::ExpertSlots, slots, sizeof slots / sizeof slots[0]);
}

}  // namespace tmoe
