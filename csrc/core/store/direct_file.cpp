#include "core/store/direct_file.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file_errors.h"
#include "core/memory.h"

namespace tmoe {

namespace {

int open_with(const std::string& path, int flags) {
    int descriptor = -1;
    do {  // without O_NONBLOCK the open of a FIFO would wait for a writer
        descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags);
    } while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

}  // namespace

DirectFile::~DirectFile() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    counters().open_files--;
}

Status DirectFile::open(const std::string& path, std::shared_ptr<DirectFile>& out) {
    std::shared_ptr<DirectFile> file(new (std::nothrow) DirectFile());
    if (!file) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate a file");
    file->path_ = path;
#if defined(__linux__)
    file->descriptor_ = open_with(path, O_DIRECT);
    file->direct_ = file->descriptor_ >= 0;
#endif
    if (file->descriptor_ < 0) file->descriptor_ = open_with(path, 0);
    if (file->descriptor_ < 0) {
        const int error = errno;
        if (error != ENOENT && error != ENOTDIR) return read_failed(path, error);
        return Status(StatusCode::MODEL_NOT_FOUND, "there is no file " + path).with("path", path);
    }
    counters().open_files++;
#if defined(__APPLE__)
    (void)fcntl(file->descriptor_, F_NOCACHE, 1);
#endif
    struct stat info;
    if (fstat(file->descriptor_, &info) != 0) return read_failed(path, errno);
    if (!S_ISREG(info.st_mode)) return read_failed(path, S_ISDIR(info.st_mode) ? EISDIR : EINVAL);
    file->bytes_ = static_cast<uint64_t>(info.st_size);
    out = std::move(file);
    return {};
}

bool DirectFile::is_same(int descriptor) const {
    struct stat mine, other;
    return fstat(descriptor_, &mine) == 0 && fstat(descriptor, &other) == 0 && mine.st_dev == other.st_dev && mine.st_ino == other.st_ino;
}

/** Some file systems take O_DIRECT at the open and refuse the reads: from here on they are plain. */
bool DirectFile::leave_direct() const {
#if defined(__linux__)
    const int flags = fcntl(descriptor_, F_GETFL);
    if (flags < 0 || fcntl(descriptor_, F_SETFL, flags & ~O_DIRECT) != 0) return false;
    direct_ = false;  // only now: a read that still finds it set tries again
    return true;
#else
    return false;
#endif
}

Status DirectFile::read(uint64_t offset, uint8_t* to, size_t bytes, size_t needed) const {
    size_t have = 0;
    while (have < needed) {
        const bool direct = direct_.load(std::memory_order_relaxed);
        const ssize_t got = pread(descriptor_, to + have, bytes - have, static_cast<off_t>(offset + have));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EINVAL && direct && leave_direct()) continue;
        if (got < 0) return read_failed(path_, errno);
        const size_t arrived = have + static_cast<size_t>(got);
        // What is left of a short direct read begins at a whole block again.
        const size_t kept = direct && arrived < needed ? arrived / kBlobAlignment * kBlobAlignment : arrived;
        if (kept <= have && arrived < needed) {
            return Status(StatusCode::FILE_READ_FAILED,
                          path_ + format(" ends at byte %llu: it has shrunk since it was opened", static_cast<unsigned long long>(offset + arrived)))
                .with("path", path_)
                .with("offset", static_cast<double>(offset + arrived));
        }
        have = kept;
    }
#if defined(__linux__)
    if (!direct_.load(std::memory_order_relaxed)) (void)posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
#endif
    return {};
}

}  // namespace tmoe
