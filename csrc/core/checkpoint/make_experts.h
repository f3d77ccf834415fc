// New experts: a weighted average of others, or random weights to start from again.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/checkpoint/write_experts.h"

namespace tmoe {

/**
 * One blob: each weight is Σ share · weight over the blobs in their order (a chain of fma in float32 from 0), share = float32(weights[i] / Σ weights),
 * encoded as quant/blocks.h does for the part's type. The average by frequency of use is that of M-SMoE (Li et al. 2023, "Merge, Then
 * Compress", equation 2). TENSOR_TYPE_UNSUPPORTED {type} where a part's type cannot be encoded; VALIDATION_ERROR for weights whose sum is not
 * positive and finite; FILE_READ_FAILED; `fill` gives MODEL_CORRUPTED {file, offset}, and RUNTIME_NAN_DETECTED where an average has no encoding.
 */
Status merge_experts(const std::vector<std::string>& files, const ExpertLayout& layout, std::vector<StoredBlob> blobs, std::vector<double> weights,
                     std::unique_ptr<BlobMaker>& out);

/**
 * One blob of random weights: each uniform in [-a, a), a = 1 / √columns of its matrix (what a linear layer of PyTorch begins with), in steps of
 * a / 2^23, by a hash of (seed, part, row, column). TENSOR_TYPE_UNSUPPORTED {type}.
 */
Status init_expert(const ExpertLayout& layout, uint64_t seed, std::unique_ptr<BlobMaker>& out);

}  // namespace tmoe
