// How a model's experts are kept: the options as lib/native.ts has them, and what the store and the prefetcher count.
#pragma once
#include "core/model.h"
#include "napi/call.h"

namespace tmoe {

/** `options` is `ExpertOptions` of lib/native.ts. VALIDATION_ERROR {argument, expected, actual}. */
Status read_expert_options(napi_env env, napi_value options, const Plan& plan, ExpertOptions& out);

/** [layers][experts] of Placement, `experts` in all (0: as many as there are). VALIDATION_ERROR {argument, expected, actual}. */
Status read_placement(napi_env env, napi_value value, const char* argument, size_t experts, std::vector<uint8_t>& out);

/** `AdoptedExperts` of lib/native.ts: files, and the experts that are in them from now on. VALIDATION_ERROR {argument, expected, actual}. */
Status read_adopted(napi_env env, napi_value places, RoutingShape shape, std::vector<std::string>& paths, std::vector<AdoptedExpert>& experts);

/** `policy` of an object: lru, lfu or adaptive. VALIDATION_ERROR. */
Status read_policy(napi_env env, napi_value options, CachePolicy& out);

/** `prefetch` of an object: off, on or auto. VALIDATION_ERROR. */
Status read_prefetch(napi_env env, napi_value options, PrefetchMode& out);

/** The counts of a store, as `ExpertStats` of lib/native.ts names them. */
Status store_counts(napi_env env, const StoreCounts& counts, napi_value& out);

/** `ExpertStats` of lib/native.ts; undefined without a store. */
Status expert_stats(napi_env env, const Model& model, napi_value& out);

/** What `expertTrace` of lib/native.ts gives; undefined where nothing is recorded. */
Status expert_trace(napi_env env, const TraceLog* trace, napi_value& out);

}  // namespace tmoe
