// Places in files and types of weights, as arguments.
#pragma once
#include <cstdint>
#include <vector>

#include "napi/args.h"
#include "quant/types.h"

namespace tmoe {

/** Of a file, and of positions in it. */
inline constexpr int64_t kMostBytes = int64_t{1} << 52;

/** A Uint32Array of an object, copied. */
Status read_u32(napi_env env, napi_value object, const char* key, std::vector<uint32_t>& out);
/** A Float64Array of byte positions from 0 to kMostBytes, copied. */
Status read_offsets(napi_env env, napi_value object, const char* key, std::vector<uint64_t>& out);

/** The name of a weight type. */
Status read_dtype(napi_env env, napi_value object, const char* path, const char* key, DType& out);

}  // namespace tmoe
