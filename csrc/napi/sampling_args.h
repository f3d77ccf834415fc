// Sampling parameters from JavaScript, and what was sampled back to it.
#pragma once
#include <string>
#include <vector>

#include "core/sampling.h"
#include "napi/setup.h"

namespace tmoe {

/** Ranges of the parameters. */
inline constexpr int64_t kLargestInteger = 9007199254740991;  ///< 2^53 - 1
inline constexpr double kMostTemperature = 1e6, kLeastPenalty = 1e-6, kMostPenalty = 1e6;
inline constexpr int64_t kMostLogprobs = 20;

/** Copies an Int32Array. */
Status read_tokens(napi_env env, napi_value value, const std::string& argument, std::vector<int32_t>& out);

/** SamplingParams of lib/native.ts; `at` is the argument's name in messages. */
Status read_sampling(napi_env env, napi_value value, const std::string& at, SamplingParams& out);

/** Adds token, logprob and top to a result. */
Status define_sampled(napi_env env, napi_value object, const Sampled& sampled);

}  // namespace tmoe
