// What a file of a checkpoint really holds: its hash and those of its blobs, in one pass.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/checkpoint/write_experts.h"

namespace tmoe {

/** Where a blob lies in its file. */
struct BlobRange {
    uint64_t offset, bytes;
};

/**
 * Reads all of `path`. The ranges ascend and do not overlap; one that the file does not hold whole gets the sums of what there is.
 * MODEL_NOT_FOUND, FILE_READ_FAILED {errno}, VALIDATION_ERROR for other ranges, RESOURCE_MEMORY_EXHAUSTED, CANCELLED.
 */
Status measure_shard(const std::string& path, const std::vector<BlobRange>& ranges,
                     const std::function<void(uint64_t)>& progress, const std::atomic<bool>* cancel, WrittenExperts& out);

}  // namespace tmoe
