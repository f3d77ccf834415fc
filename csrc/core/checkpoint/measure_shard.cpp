#include "core/checkpoint/measure_shard.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file_errors.h"
#include "core/store/crc32c.h"

namespace tmoe {

namespace {

constexpr size_t kChunk = size_t{1} << 20;

Status failed(const std::string& path, int error) {
    if (error == ENOENT || error == ENOTDIR) return Status(StatusCode::MODEL_NOT_FOUND, "there is no file " + path).with("path", path);
    return read_failed(path, error);
}

/** Closes what it opened. */
struct Input {
    int descriptor = -1;
    ~Input() {
        if (descriptor < 0) return;
        ::close(descriptor);
        counters().open_files--;
    }
    Status open(const std::string& path) {
        do {
            descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        } while (descriptor < 0 && errno == EINTR);
        if (descriptor < 0) return failed(path, errno);
        counters().open_files++;
        struct stat info;
        if (fstat(descriptor, &info) != 0) return failed(path, errno);
        return S_ISREG(info.st_mode) ? Status() : failed(path, S_ISDIR(info.st_mode) ? EISDIR : EINVAL);
    }
};

/** The blobs of a file, fed with its bytes in order. */
class Blobs {
  public:
    Blobs(const std::vector<BlobRange>& ranges, std::vector<WrittenBlob>& out) : ranges_(ranges), out_(out) { out_.assign(ranges.size(), {}); }

    void update(uint64_t position, const uint8_t* from, size_t bytes) {
        const uint64_t end = position + bytes;
        while (index_ < ranges_.size() && ranges_[index_].offset < end) {
            const uint64_t blob_end = ranges_[index_].offset + ranges_[index_].bytes;
            const uint64_t first = std::max(position, ranges_[index_].offset), last = std::min(end, blob_end);
            const uint8_t* part = from + (first - position);
            crc_ = crc32c(part, static_cast<size_t>(last - first), crc_);
            hash_.update(part, static_cast<size_t>(last - first));
            if (last < blob_end) return;
            finish_one();
        }
    }
    void finish() {
        while (index_ < ranges_.size()) finish_one();
    }

  private:
    void finish_one() {
        out_[index_++] = {crc_, hash_.finish()};
        crc_ = 0;
        hash_ = Sha256();
    }

    const std::vector<BlobRange>& ranges_;
    std::vector<WrittenBlob>& out_;
    size_t index_ = 0;
    uint32_t crc_ = 0;
    Sha256 hash_;
};

Status check_ranges(const std::vector<BlobRange>& ranges) {
    uint64_t end = 0;
    for (const BlobRange& range : ranges) {
        if (range.offset < end || __builtin_add_overflow(range.offset, range.bytes, &end) || range.bytes == 0) {
            return Status(StatusCode::VALIDATION_ERROR, "offset: expected blobs in ascending order that do not overlap").with("argument", "offset");
        }
    }
    return {};
}

}  // namespace

Status measure_shard(const std::string& path, const std::vector<BlobRange>& ranges,
                     const std::function<void(uint64_t)>& progress, const std::atomic<bool>* cancel, WrittenExperts& out) {
    TMOE_RETURN_IF_ERROR(check_ranges(ranges));
    Input input;
    TMOE_RETURN_IF_ERROR(input.open(path));
    Buffer chunk;
    TMOE_RETURN_IF_ERROR(chunk.allocate(kChunk));
    Sha256 hash;
    Blobs blobs(ranges, out.blobs);
    uint64_t position = 0;
    for (;;) {
        if (cancel && cancel->load(std::memory_order_relaxed)) return Status(StatusCode::CANCELLED, "verifying was cancelled");
        const ssize_t got = pread(input.descriptor, chunk.data(), kChunk, static_cast<off_t>(position));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return failed(path, errno);
        if (got == 0) break;
        hash.update(chunk.data(), static_cast<size_t>(got));
        blobs.update(position, chunk.data(), static_cast<size_t>(got));
        position += static_cast<uint64_t>(got);
        if (progress) progress(position);
    }
    blobs.finish();
    out.file = {position, hash.finish()};
    return {};
}

}  // namespace tmoe
