// How a model's experts are kept: the options as lib/native.ts has them, and what the store and the prefetcher count.
#pragma once
#include "core/model.h"
#include "napi/call.h"

namespace tmoe {

/** `options` is `ExpertOptions` of lib/native.ts. VALIDATION_ERROR {argument, expected, actual}. */
Status read_expert_options(napi_env env, napi_value options, const Plan& plan, ExpertOptions& out);

/** `ExpertStats` of lib/native.ts; undefined without a store. */
Status expert_stats(napi_env env, const Model& model, napi_value& out);

/** What `expertTrace` of lib/native.ts gives; undefined where nothing is recorded. */
Status expert_trace(napi_env env, const Model& model, napi_value& out);

}  // namespace tmoe
