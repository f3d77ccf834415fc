// A plan of lib/model/plan.ts as core/plan.h has it.
#pragma once
#include "core/plan.h"
#include "napi/setup.h"

namespace tmoe {

/** Reads names and numbers and resolves the names; core's validate() checks what they mean. VALIDATION_ERROR {argument, expected, actual}. */
Status read_plan(napi_env env, napi_value value, Plan& out);

/** One entry of a plan's tensors; `at` names it in messages. VALIDATION_ERROR. */
Status read_plan_tensor(napi_env env, napi_value value, const std::string& at, PlanTensor& out);

}  // namespace tmoe
