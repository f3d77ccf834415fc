#include "core/file_writer.h"

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file_errors.h"
#include "core/memory.h"

namespace tmoe {

namespace {

constexpr size_t kLargestWrite = size_t{64} << 20;

// Over RLIMIT_FSIZE a write raises SIGXFSZ, which would end the process; blocked, the write fails with EFBIG instead.
void block_size_signal() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

std::string folder_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

FileWriter::~FileWriter() { discard(); }

void FileWriter::discard() {
    if (descriptor_ >= 0) {
        ::close(descriptor_);
        counters().open_files--;
        descriptor_ = -1;
    }
    if (!temporary_.empty()) {
        unlink(temporary_.c_str());
        temporary_.clear();
    }
}

Status FileWriter::failed(const char* what, int error) const {
    return file_failed(StatusCode::FILE_WRITE_FAILED, path_, what, error).with("bytesWritten", static_cast<double>(position_));
}

Status FileWriter::open(const std::string& path, uint64_t bytes) {
    discard();
    block_size_signal();
    path_ = path;
    position_ = 0;
    struct stat info;
    if (stat(path.c_str(), &info) == 0) {
        if (!S_ISREG(info.st_mode)) return failed("not a regular file", S_ISDIR(info.st_mode) ? EISDIR : EINVAL);
        // Through a link, so that the file that it names is replaced and not the link.
        char resolved[PATH_MAX];
        if (realpath(path.c_str(), resolved)) path_ = resolved;
    }
    for (int attempt = 0; descriptor_ < 0; attempt++) {
        struct timespec now = {};
        clock_gettime(CLOCK_MONOTONIC, &now);
        const std::string name = path_ + format(".tmp-%d-%lx-%d", static_cast<int>(getpid()), static_cast<long>(now.tv_nsec), attempt);
        descriptor_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor_ >= 0) {
            temporary_ = name;
            counters().open_files++;
        } else if (errno != EINTR && (errno != EEXIST || attempt > 100)) {
            return failed("cannot create a file", errno);
        }
    }
#if defined(__linux__)
    if (bytes > 0 && fallocate(descriptor_, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes)) != 0) {
        const int error = errno;
        if (error == ENOSPC || error == EFBIG || error == EDQUOT) {
            discard();
            return failed(format("no room for %llu bytes", static_cast<unsigned long long>(bytes)).c_str(), error);
        }
    }
#else
    (void)bytes;
#endif
    return {};
}

Status FileWriter::write(const void* from, size_t bytes) {
    const auto* in = static_cast<const uint8_t*>(from);
    if (hash_) hash_->update(from, bytes);
    while (bytes > 0) {
        const ssize_t put = ::write(descriptor_, in, bytes < kLargestWrite ? bytes : kLargestWrite);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return failed("cannot write", put < 0 ? errno : ENOSPC);
        in += put;
        bytes -= static_cast<size_t>(put);
        position_ += static_cast<uint64_t>(put);
    }
    return {};
}

Status FileWriter::pad(uint64_t alignment) {
    static const uint8_t zeros[4096] = {};
    uint64_t rest = (alignment - position_ % alignment) % alignment;
    while (rest > 0) {
        const size_t part = rest < sizeof zeros ? static_cast<size_t>(rest) : sizeof zeros;
        TMOE_RETURN_IF_ERROR(write(zeros, part));
        rest -= part;
    }
    return {};
}

Status FileWriter::commit() {
    // Gives back what was reserved and not needed.
    if (ftruncate(descriptor_, static_cast<off_t>(position_)) != 0) return failed("cannot set the size", errno);
    if (fsync(descriptor_) != 0) return failed("cannot sync", errno);
    const int closed = ::close(descriptor_);
    const int error = errno;
    descriptor_ = -1;
    counters().open_files--;
    if (closed != 0 && error != EINTR) return failed("cannot close", error);
    if (rename(temporary_.c_str(), path_.c_str()) != 0) return failed("cannot rename", errno);
    temporary_.clear();
    const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
        (void)fsync(folder);  // some file systems cannot sync a folder; the file itself is whole either way
        ::close(folder);
    }
    return {};
}

}  // namespace tmoe
