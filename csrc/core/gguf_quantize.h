// Writes a GGUF file anew with its matrices in Q8_0 or Q4_0.
#pragma once
#include <atomic>
#include <functional>
#include <string>

#include "core/gguf.h"
#include "core/model.h"
#include "quant/types.h"

namespace tmoe {

/**
 * The type that a tensor gets in a file written as `target` (Q8_0 or Q4_0). Vectors, biases (of experts too) and routers are F32; the output matrix
 * (output.weight, or token_embd.weight where `tied`) is Q8_0; a row that is not a multiple of 32 keeps its type; everything else is `target`.
 */
DType quantised_type(const GgufTensor& tensor, DType target, bool tied);

/**
 * Reads `from`, writes `to`: metadata byte for byte but general.file_type and general.quantization_version, then every tensor. `to` appears
 * whole or not at all, and may be `from` itself. Progress comes once per tensor, when it is written; `bytes` is the size of the result.
 * The errors of GgufFile::open and read, TENSOR_TYPE_UNSUPPORTED, MODEL_FILE_INVALID {tensor, row} for a row with values that are not
 * finite, FILE_WRITE_FAILED, RESOURCE_MEMORY_EXHAUSTED, CANCELLED.
 */
Status quantise_gguf(const std::string& from, const std::string& to, DType target,
                     const std::function<void(const LoadProgress&)>& progress, const std::atomic<bool>* cancel, uint64_t& bytes);

}  // namespace tmoe
