// A plan of lib/model/plan.ts as core/plan.h has it.
#pragma once
#include "core/plan.h"
#include "napi/setup.h"

namespace tmoe {

/** Reads names and numbers and resolves the names; core's validate() checks what they mean. VALIDATION_ERROR {argument, expected, actual}. */
Status read_plan(napi_env env, napi_value value, Plan& out);

}  // namespace tmoe
