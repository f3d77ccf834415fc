// What each bind_<area>.cpp adds to the addon's exports; lib/native.ts is the same surface in TypeScript.
#pragma once
#include "core/model.h"
#include "napi/call.h"
#include "napi/objects.h"
#include "napi/worker.h"

namespace tmoe {

/** initialize, statusCodes, cpuInfo, counters, availableMemory, createCancel, crc32c, tryLockFile, openFileLimit. */
napi_status bind_system(Environment& environment, napi_value exports);
/** openGguf, openGathered, quantizedType, quantizeGguf. */
napi_status bind_gguf(Environment& environment, napi_value exports);
/** expertLayout, writeBase, packExperts, copyExperts, measureShard. */
napi_status bind_checkpoint(Environment& environment, napi_value exports);
/** createBackend and the class behind it. */
napi_status bind_backend(Environment& environment, napi_value exports);
/** The classes of models and sequences. */
napi_status bind_model(Environment& environment, napi_value exports);
/** openExperts, and the classes of what it opens. */
napi_status bind_experts(Environment& environment, napi_value exports);
/** simulateCache. */
napi_status bind_trace(Environment& environment, napi_value exports);
/** shaderText, shaderNames. */
napi_status bind_shaders(Environment& environment, napi_value exports);

/** Methods of a backend that run one kernel (bind_kernels.cpp). */
Status backend_call(Call& call, napi_value& result);
Status backend_call_async(Call& call, napi_value& result);
Status backend_prepare(Call& call, napi_value& result);
Status backend_call_prepared(Call& call, napi_value& result);
/** The class of prepared calls. */
napi_status bind_prepared(Environment& environment);

/** Methods of a backend that give weights in the kernels' layout (bind_weights.cpp). */
Status describe_weights(Call& call, napi_value& result);
Status read_weight(Call& call, napi_value& result);

/** The backend that a method was called on. VALIDATION_ERROR where it is none, or disposed. */
Status unwrap_backend(Call& call, BackendHandle*& out);
Status backend_disposed();

/** The model that a method was called on. VALIDATION_ERROR where it is none, MODEL_NOT_LOADED where it was disposed. */
Status unwrap_model(Call& call, ModelHandle*& out);
Status model_disposed();
/** A model's step (bind_step.cpp). */
Status model_step(Call& call, napi_value& result);

/** {salt, epoch, enabled?}: with whom a sequence shares its pages (bind_prefix.cpp, and methods of a model). */
Status read_prefix_scope(napi_env env, napi_value value, const Model& model, PrefixScope& out);
Status prefix_stats(Call& call, napi_value& result);
Status evict_prefixes(Call& call, napi_value& result);

/** The JavaScript object of a loaded model. */
Status wrap_model(Environment& environment, std::shared_ptr<Backend> backend, std::shared_ptr<Model> model, napi_value& out);

/** `ExpertLayout` of lib/native.ts; null when no JavaScript can run any more. */
napi_value layout_object(napi_env env, const ExpertLayout& layout);
/** `ExpertShape` of lib/native.ts: {gate, up, down: types, width, hidden}. */
Status read_layout(napi_env env, napi_value options, ExpertLayout& out);

/** `CacheCounts` of lib/native.ts; null when no JavaScript can run any more. */
napi_value cache_counts_object(napi_env env, const CacheCounts& counts);

/** A callback that sends a loader's progress to JavaScript; empty where `wanted` is false. The ticket must outlive it. */
std::function<void(const LoadProgress&)> progress_sender(const Ticket& ticket, bool wanted);

}  // namespace tmoe
