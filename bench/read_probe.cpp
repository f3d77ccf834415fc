// The rate at which this disk gives random blobs past the page cache, sampled beside a measurement.
//   read_probe THREADS BLOB_BYTES COUNT SEED FILE...     prints bytes per second
// Threads read whole blobs at seeded places of the files with O_DIRECT, in pieces of 1 MiB, several at once: nothing is computed.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr uint64_t kPiece = uint64_t{1} << 20;

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

uint64_t next(uint64_t& state) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return state >> 33;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 6) return fprintf(stderr, "read_probe THREADS BLOB_BYTES COUNT SEED FILE...\n"), 2;
    const size_t threads = strtoul(argv[1], nullptr, 10), count = strtoul(argv[3], nullptr, 10);
    const uint64_t blob = strtoull(argv[2], nullptr, 10) / 4096 * 4096;
    uint64_t state = strtoull(argv[4], nullptr, 10);
    struct File {
        int descriptor;
        uint64_t blobs;
    };
    std::vector<File> files;
    for (int i = 5; i < argc; i++) {
        struct stat info = {};
        const int descriptor = open(argv[i], O_RDONLY | O_DIRECT | O_CLOEXEC);
        if (descriptor < 0 || fstat(descriptor, &info) != 0) return perror(argv[i]), 1;
        if (static_cast<uint64_t>(info.st_size) >= blob) files.push_back({descriptor, info.st_size / blob});
    }
    if (blob == 0 || files.empty()) return fprintf(stderr, "read_probe: no file holds a blob\n"), 1;
    struct Read {
        int descriptor;
        uint64_t offset, bytes;
    };
    std::vector<Read> reads;
    for (size_t i = 0; i < count; i++) {
        const File& file = files[next(state) % files.size()];
        const uint64_t at = next(state) % file.blobs * blob;
        for (uint64_t piece = 0; piece < blob; piece += kPiece)
            reads.push_back({file.descriptor, at + piece, blob - piece < kPiece ? blob - piece : kPiece});
    }
    std::atomic<size_t> taken{0};
    std::atomic<bool> failed{false};
    const auto work = [&] {
        void* memory = nullptr;
        if (posix_memalign(&memory, 4096, kPiece) != 0) return failed.store(true);
        for (size_t i = taken++; i < reads.size() && !failed; i = taken++) {
            const ssize_t got = pread(reads[i].descriptor, memory, reads[i].bytes, static_cast<off_t>(reads[i].offset));
            if (got != static_cast<ssize_t>(reads[i].bytes)) failed = true;
        }
        free(memory);
    };
    const double start = seconds();
    std::vector<std::thread> pool;
    for (size_t i = 0; i < threads; i++) pool.emplace_back(work);
    for (std::thread& thread : pool) thread.join();
    if (failed) return fprintf(stderr, "read_probe: a read failed\n"), 1;
    printf("%.0f\n", static_cast<double>(count) * static_cast<double>(blob) / (seconds() - start));
    return 0;
}
