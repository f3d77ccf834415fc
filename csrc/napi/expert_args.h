// Arguments and results that models, the reader of experts and the slots of a device have in common.
#pragma once
#include "napi/bindings.h"

namespace tmoe {

/** A Uint32Array of its own. */
Status words_array(napi_env env, const uint32_t* words, size_t count, napi_value& out);
/** A copy of the Uint32Array at this place of the arguments. */
Status read_ids(Call& call, size_t argument, const char* name, std::vector<uint32_t>& out);
/** The first argument. */
Status read_layer(Call& call, const RoutingShape& shape, uint32_t& out);
/** `ExpertStepShape` of lib/native.ts. */
Status read_step(napi_env env, napi_value value, StepShape& out);

/** {epoch, path, offset, crc32c}; without a path: what the model was loaded with. `at` names it in messages. */
Status read_version_place(napi_env env, napi_value value, const std::string& at, VersionPlace& out);

/** The reader that a method was called on. VALIDATION_ERROR where it is none, MODEL_NOT_LOADED where it was disposed. */
Status unwrap_reader(Call& call, ExpertReaderHandle*& out);
Status reader_disposed();

/** The reader's method that makes slots (bind_expert_slots.cpp). */
Status create_slots(Call& call, napi_value& result);
napi_status define_slots(Environment& environment);

}  // namespace tmoe
