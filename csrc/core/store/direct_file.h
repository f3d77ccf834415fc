// A file that is read past the system's page cache: what the expert store reads once must not push other pages out, and must not be
// copied. O_DIRECT where the file system has it; elsewhere (some tmpfs, some network file systems) plain reads whose pages are given back.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "core/status.h"
#include "core/store/expert_layout.h"

namespace tmoe {

/**
 * Bytes of a read, about: what an expert's pieces are cut to. With StoreOptions::io_threads it is the smallest pair that reached the rate of the
 * disk it was measured on (`node bench/store.mjs`, bench/notes/memory.md): 512 KiB to 1 MiB by 3 to 4 threads; reads of 2 MiB and more were slower.
 */
inline constexpr size_t kReadBytes = size_t{1} << 20;

/** Reads are thread-safe. counters().open_files counts the descriptor. */
class DirectFile {
  public:
    ~DirectFile();
    DirectFile(const DirectFile&) = delete;
    DirectFile& operator=(const DirectFile&) = delete;

    /** MODEL_NOT_FOUND, FILE_READ_FAILED {path, errno}, RESOURCE_FILES_EXHAUSTED. Regular files only. */
    static Status open(const std::string& path, std::shared_ptr<DirectFile>& out);

    /**
     * Reads `bytes` at `offset`; offset, bytes and `to` are multiples of kBlobAlignment. At the file's end fewer arrive: fine from `needed`
     * on. FILE_READ_FAILED {path, errno}, or {path, offset} where the file ends before.
     */
    Status read(uint64_t offset, uint8_t* to, size_t bytes, size_t needed) const;

    const std::string& path() const { return path_; }
    /** As it was opened. */
    uint64_t bytes() const { return bytes_; }
    /** True when the other descriptor is of this same file. */
    bool is_same(int descriptor) const;

  private:
    DirectFile() = default;
    bool leave_direct() const;

    std::string path_;
    int descriptor_ = -1;
    uint64_t bytes_ = 0;
    mutable std::atomic<bool> direct_{false};
};

}  // namespace tmoe
