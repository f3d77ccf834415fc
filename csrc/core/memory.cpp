#include "core/memory.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#if defined(__linux__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace tmoe {

namespace {

constexpr uint64_t kPage = 65536;             // of the system's, or a multiple of it
constexpr size_t kMapFrom = size_t{1} << 20;  // blocks from here on come from the system, with huge pages where it has them

int64_t read_number(const std::string& path, const char* key) {
    FILE* file = fopen(path.c_str(), "re");
    if (!file) return -1;
    char line[256];
    int64_t value = -1;
    while (value < 0 && fgets(line, sizeof line, file)) {
        const size_t skip = strlen(key);
        if (strncmp(line, key, skip) != 0) continue;
        char* end = nullptr;
        const long long number = strtoll(line + skip, &end, 10);
        if (end != line + skip) value = number;
    }
    fclose(file);
    return value;
}

#if defined(__linux__)
/** Where a version of control groups keeps its numbers. */
struct GroupFiles {
    const char *root, *controller, *limit, *used, *cache;
};

/** This process's path below the root of its groups; empty at the root, or where that cannot be told. */
std::string group_path(const GroupFiles& files) {
    FILE* file = fopen("/proc/self/cgroup", "re");
    if (!file) return {};
    char line[4096];
    std::string path;
    while (path.empty() && fgets(line, sizeof line, file)) {  // `4:cpu,memory:/a/b`, or `0::/a/b` in version 2
        char* controllers = strchr(line, ':');
        char* end = controllers ? strchr(controllers + 1, ':') : nullptr;
        if (!end) continue;
        *end = 0;
        const bool ours = *files.controller ? strstr(controllers + 1, files.controller) != nullptr : controllers[1] == 0;
        if (ours) path.assign(end + 1, strcspn(end + 1, "\n"));
    }
    fclose(file);
    return path == "/" ? std::string() : path;
}

/** What the limits of this process's group and of those above it leave. */
int64_t left_in_groups(const GroupFiles& files) {
    int64_t least = INT64_MAX;
    for (std::string path = group_path(files);; path.erase(path.rfind('/'))) {
        const std::string group = files.root + path + "/";
        const int64_t limit = read_number(group + files.limit, ""), used = read_number(group + files.used, "");
        if (limit >= 0 && used >= 0) {
            // A file that was read once counts as used, but the system gives its pages back: a model must fit after its own download.
            const int64_t cache = read_number(group + "memory.stat", files.cache);
            const int64_t left = limit - (cache > 0 && cache < used ? used - cache : used);
            if (left < least) least = left > 0 ? left : 0;
        }
        if (path.empty() || path[0] != '/') return least;
    }
}
#endif

// Under AddressSanitizer every block is the allocator's and as long as it was asked for: around a mapped block it sees nothing.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kPadding = 1;
constexpr bool kMayMap = false;
#else
constexpr size_t kPadding = 64;
constexpr bool kMayMap = true;
#endif

size_t padded_size(size_t bytes) { return (bytes + kPadding - 1) & ~(kPadding - 1); }

bool use_map(size_t bytes) {
#if defined(__linux__) || defined(__APPLE__)
    return kMayMap && bytes >= kMapFrom;
#else
    (void)bytes;
    return false;
#endif
}

}  // namespace

Counters& counters() {
    static Counters instance;
    return instance;
}

int64_t available_memory() {
    int64_t available = INT64_MAX;
#if defined(__linux__)
    const int64_t kib = read_number("/proc/meminfo", "MemAvailable:");
    if (kib >= 0) available = kib * 1024;
    const GroupFiles versions[] = {{"/sys/fs/cgroup", "", "memory.max", "memory.current", "inactive_file "},
                                   {"/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "}};
    for (const GroupFiles& files : versions) {
        const int64_t left = left_in_groups(files);
        if (left < available) available = left;
    }
#elif defined(__APPLE__)
    available = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
#endif
    return available;
}

Status Reservation::resize(uint64_t bytes) {
    if (bytes <= bytes_) {
        shrink(bytes);
        return {};
    }
#if defined(__linux__) || defined(__APPLE__)
    const uint64_t more = (bytes - bytes_ + kPage - 1) / kPage * kPage;
    void* base = more <= SIZE_MAX / 2 ? mmap(nullptr, static_cast<size_t>(more), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : MAP_FAILED;
    if (base == MAP_FAILED) {
        return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("the system does not reserve %llu bytes of memory", static_cast<unsigned long long>(bytes)))
            .with("required", static_cast<double>(bytes))
            .with("available", static_cast<double>(available_memory()));
    }
    ranges_.push_back({static_cast<uint8_t*>(base), static_cast<size_t>(more)});
    bytes_ += more;
#else
    bytes_ = bytes;
#endif
    return {};
}

void Reservation::shrink(uint64_t bytes) {
#if defined(__linux__) || defined(__APPLE__)
    while (!ranges_.empty() && bytes_ > bytes) {
        Range& last = ranges_.back();
        const auto less = std::min<uint64_t>((bytes_ - bytes) / kPage * kPage, last.bytes);
        if (less == 0) return;
        last.bytes -= static_cast<size_t>(less);
        munmap(last.base + last.bytes, static_cast<size_t>(less));
        bytes_ -= less;
        if (last.bytes == 0) ranges_.pop_back();
    }
#else
    bytes_ = bytes;
#endif
}

Status Buffer::allocate(size_t bytes) {
    release();
    if (bytes == 0) return {};
    const size_t padded = padded_size(bytes);
    void* block = nullptr;
    if (padded >= bytes) {
#if defined(__linux__) || defined(__APPLE__)
        if (use_map(padded)) {
            block = mmap(nullptr, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (block == MAP_FAILED) block = nullptr;
#if defined(__linux__)
            if (block) madvise(block, padded, MADV_HUGEPAGE);
#endif
        } else if (posix_memalign(&block, 64, padded) != 0) {
            block = nullptr;
        }
#else
        block = _aligned_malloc(padded, 64);
#endif
    }
    if (!block) {
        return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("cannot allocate %zu bytes", bytes))
            .with("required", static_cast<double>(bytes))
            .with("available", static_cast<double>(available_memory()));
    }
    if (!use_map(padded)) memset(block, 0, padded);
    data_ = static_cast<uint8_t*>(block);
    size_ = bytes;
    counters().live_bytes += static_cast<int64_t>(padded);
    return {};
}

void Buffer::release() {
    if (!data_) return;
    const size_t padded = padded_size(size_);
#if defined(__linux__) || defined(__APPLE__)
    if (use_map(padded)) {
        munmap(data_, padded);
    } else {
        free(data_);
    }
#else
    _aligned_free(data_);
#endif
    counters().live_bytes -= static_cast<int64_t>(padded);
    data_ = nullptr;
    size_ = 0;
}

}  // namespace tmoe
