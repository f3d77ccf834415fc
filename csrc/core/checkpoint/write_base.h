// The GGUF file of a tiered checkpoint: everything of a model's file but its experts.
#pragma once
#include <atomic>
#include <functional>
#include <string>
#include <unordered_set>

#include "core/gguf.h"
#include "core/model.h"
#include "core/sha256.h"

namespace tmoe {

/** A file as it was written. */
struct WrittenFile {
    uint64_t bytes = 0;
    Digest sha256 = {};
};

/**
 * Writes `to`: the metadata of `file` byte for byte, and every tensor whose name is not in `leave_out`, data unchanged and in the file's
 * order. `to` appears whole or not at all. Progress comes once per tensor.
 * FILE_READ_FAILED, FILE_WRITE_FAILED, RESOURCE_MEMORY_EXHAUSTED, CANCELLED.
 */
Status write_base(const GgufFile& file, const std::string& to, const std::unordered_set<std::string>& leave_out,
                  const std::function<void(const LoadProgress&)>& progress, const std::atomic<bool>* cancel, WrittenFile& out);

}  // namespace tmoe
