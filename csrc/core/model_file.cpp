#include "core/model_file.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file_errors.h"
#include "core/memory.h"

namespace tmoe {

namespace {

constexpr size_t kLargestRead = size_t{1} << 30;  // systems cut single reads a little below 2 GiB

}  // namespace

Status open_model_file(const std::string& path, const char* kind, int& descriptor, uint64_t& bytes) {
    // Without O_NONBLOCK the open of a FIFO would wait for a writer.
    do {
        descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0) {
        const int error = errno;
        if (error != ENOENT && error != ENOTDIR) return read_failed(path, error);
        return Status(StatusCode::MODEL_NOT_FOUND, "there is no file " + path).with("path", path);
    }
    counters().open_files++;
    struct stat info;
    if (fstat(descriptor, &info) != 0) return read_failed(path, errno);
    if (!S_ISREG(info.st_mode)) {
        return Status(StatusCode::MODEL_FILE_INVALID,
                      path + (S_ISDIR(info.st_mode) ? std::string(" is a directory, not ") + kind : std::string(" is not a regular file")))
            .with("path", path);
    }
    bytes = static_cast<uint64_t>(info.st_size);
    return {};
}

void close_model_file(int descriptor) {
    if (descriptor < 0) return;
    ::close(descriptor);
    counters().open_files--;
}

Status read_model_file(int descriptor, const std::string& path, uint64_t offset, void* to, size_t bytes) {
    auto* out = static_cast<uint8_t*>(to);
    while (bytes > 0) {
        const ssize_t got = pread(descriptor, out, bytes < kLargestRead ? bytes : kLargestRead, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return read_failed(path, errno);
        if (got == 0) {
            return Status(StatusCode::FILE_READ_FAILED,
                          path + format(" ends at byte %llu: it has shrunk since it was opened", static_cast<unsigned long long>(offset)))
                .with("path", path)
                .with("offset", static_cast<double>(offset));
        }
        out += got;
        offset += static_cast<uint64_t>(got);
        bytes -= static_cast<size_t>(got);
    }
    return {};
}

}  // namespace tmoe
