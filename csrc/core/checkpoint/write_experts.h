// Files of experts of a tiered checkpoint: one blob after another, packed from a GGUF file or copied from another checkpoint.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/checkpoint/write_base.h"
#include "core/gguf.h"
#include "core/memory.h"
#include "core/store/expert_layout.h"
#include "core/threads.h"

namespace tmoe {

struct WrittenBlob {
    uint32_t crc32c = 0;
    Digest sha256 = {};
};
struct WrittenExperts {
    WrittenFile file;
    std::vector<WrittenBlob> blobs;  ///< blob i is at i · blob bytes
};

/** Fills blobs. Thread-safe. What it leaves alone stays zero. */
class BlobMaker {
  public:
    virtual ~BlobMaker() = default;
    virtual size_t count() const = 0;
    virtual size_t blob_bytes() const = 0;
    /** The bytes of the index-th blob; `scratch` is the calling thread's own. */
    virtual Status fill(size_t index, uint8_t* blob, Buffer& scratch) const = 0;
};

/**
 * Experts `experts` of one layer of a GGUF file, from its tensors of [columns, rows, experts]. TENSOR_MISSING, TENSOR_SHAPE_MISMATCH,
 * TENSOR_TYPE_UNSUPPORTED, ROUTING_INVALID_EXPERT.
 */
Status pack_experts(std::shared_ptr<GgufFile> file, const std::string& gate, const std::string& up, const std::string& down,
                    std::vector<uint32_t> experts, std::unique_ptr<BlobMaker>& out);

/** A blob of a checkpoint's file. */
struct StoredBlob {
    uint32_t file;     ///< index into the files given
    uint64_t offset;
    uint32_t crc32c;
};
/** Copies of blobs, each checked. FILE_READ_FAILED; `fill` gives MODEL_CORRUPTED {file, offset} too. */
Status copy_experts(const std::vector<std::string>& files, size_t blob_bytes, std::vector<StoredBlob> blobs, std::unique_ptr<BlobMaker>& out);

/**
 * Writes `to`: every blob in order, made on all threads of the pool while the ones before are written. `to` appears whole or not at all.
 * `progress` gets the bytes written. The maker's errors; FILE_WRITE_FAILED, RESOURCE_MEMORY_EXHAUSTED, CANCELLED.
 */
Status write_experts(const BlobMaker& maker, const std::string& to, ThreadPool& pool, const std::function<void(uint64_t)>& progress,
                     const std::atomic<bool>* cancel, WrittenExperts& out);

}  // namespace tmoe
