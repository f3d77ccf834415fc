#include "core/gguf.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file_errors.h"
#include "core/gguf_header.h"
#include "core/memory.h"

namespace tmoe {

namespace {

constexpr size_t kLargestRead = size_t{1} << 30;  // systems cut single reads a little below 2 GiB

}  // namespace

GgufFile::~GgufFile() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    counters().open_files--;
}

Status GgufFile::open(const std::string& path, std::shared_ptr<GgufFile>& out) {
    std::shared_ptr<GgufFile> file(new GgufFile());
    file->path_ = path;
    // Without O_NONBLOCK the open of a FIFO would wait for a writer.
    do {
        file->descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    } while (file->descriptor_ < 0 && errno == EINTR);
    if (file->descriptor_ < 0) {
        const int error = errno;
        if (error != ENOENT && error != ENOTDIR) return read_failed(path, error);
        return Status(StatusCode::MODEL_NOT_FOUND, "there is no file " + path).with("path", path);
    }
    counters().open_files++;
    struct stat info;
    if (fstat(file->descriptor_, &info) != 0) return read_failed(path, errno);
    if (!S_ISREG(info.st_mode)) {
        return Status(StatusCode::MODEL_FILE_INVALID,
                      path + (S_ISDIR(info.st_mode) ? " is a directory, not a GGUF file" : " is not a regular file"))
            .with("path", path);
    }
    file->file_bytes_ = static_cast<uint64_t>(info.st_size);
    TMOE_RETURN_IF_ERROR(GgufHeader(*file).parse());
    out = std::move(file);
    return {};
}

Status GgufFile::read_at(uint64_t offset, void* to, size_t bytes) const {
    auto* out = static_cast<uint8_t*>(to);
    while (bytes > 0) {
        const ssize_t got = pread(descriptor_, out, bytes < kLargestRead ? bytes : kLargestRead, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return read_failed(path_, errno);
        if (got == 0) {
            return Status(StatusCode::FILE_READ_FAILED,
                          path_ + format(" ends at byte %llu: it has shrunk since it was opened", static_cast<unsigned long long>(offset)))
                .with("path", path_)
                .with("offset", static_cast<double>(offset));
        }
        out += got;
        offset += static_cast<uint64_t>(got);
        bytes -= static_cast<size_t>(got);
    }
    return {};
}

Status GgufFile::read(const GgufTensor& t, uint64_t offset, void* to, size_t bytes) const {
    if (offset > t.bytes || bytes > t.bytes - offset) {
        return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, "a read past the end of tensor " + t.name).with("tensor", t.name);
    }
    return read_at(t.offset + offset, to, bytes);
}

const GgufTensor* GgufFile::find(const std::string& name) const {
    const auto found = tensor_index_.find(name);
    return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

const GgufEntry* GgufFile::entry(const std::string& key) const {
    const auto found = entry_index_.find(key);
    return found == entry_index_.end() ? nullptr : &metadata_[found->second];
}

}  // namespace tmoe
