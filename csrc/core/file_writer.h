// A file that appears whole or not at all: written under a temporary name beside its place, synced, then renamed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/sha256.h"
#include "core/status.h"

namespace tmoe {

/** Removes the temporary file when destroyed before `commit`. One thread at a time. */
class FileWriter {
  public:
    FileWriter() = default;
    ~FileWriter();
    FileWriter(const FileWriter&) = delete;
    FileWriter& operator=(const FileWriter&) = delete;

    /**
     * Starts a file that `commit` will put at `path`; `bytes` are reserved on the disk where the system can do that.
     * FILE_WRITE_FAILED {path, errno}, RESOURCE_FILES_EXHAUSTED; the former also where `path` is something else than a regular file.
     */
    Status open(const std::string& path, uint64_t bytes);
    /** Appends. FILE_WRITE_FAILED. */
    Status write(const void* from, size_t bytes);
    /** Appends zeros up to the next multiple of `alignment`. */
    Status pad(uint64_t alignment);
    /** Everything written from here on goes into `hash` too. */
    void hash_into(Sha256* hash) { hash_ = hash; }
    /** Makes the file durable and visible. FILE_WRITE_FAILED. */
    Status commit();

    uint64_t position() const { return position_; }

  private:
    Status failed(const char* what, int error) const;
    void discard();

    std::string path_, temporary_;
    int descriptor_ = -1;
    uint64_t position_ = 0;
    Sha256* hash_ = nullptr;
};

}  // namespace tmoe
