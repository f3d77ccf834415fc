// Read bandwidth of this machine, sampled beside a measurement: threads read slices of one buffer far larger than the caches.
//   bandwidth THREADS [MiB] [SECONDS]     prints the best pass in GB/s (a pass reads the whole buffer once)
// Compiled on the spot by bench/bandwidth.mjs with -O3 -march=native, because it describes the machine that it runs on.
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

typedef uint64_t Lanes __attribute__((vector_size(64)));
std::atomic<uint64_t> kept{0};

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Eight independent chains, so that neither the adder nor one miss at a time is the limit.
void read_slice(const Lanes* from, size_t count) {
    Lanes sums[8] = {};
    for (size_t i = 0; i + 8 <= count; i += 8)
        for (size_t j = 0; j < 8; j++) sums[j] ^= from[i + j];
    uint64_t all = 0;
    for (const Lanes& sum : sums)
        for (size_t j = 0; j < 8; j++) all ^= sum[j];
    kept ^= all;
}

}  // namespace

int main(int argc, char** argv) {
    const size_t threads = argc > 1 ? strtoul(argv[1], nullptr, 10) : 1;
    const size_t bytes = (argc > 2 ? strtoul(argv[2], nullptr, 10) : 1024) << 20;
    const double duration = argc > 3 ? atof(argv[3]) : 0.5;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || threads == 0) {
        fputs("bandwidth: no memory\n", stderr);
        return 1;
    }
    madvise(memory, bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < bytes; i += 4096) static_cast<char*>(memory)[i] = 1;
    const Lanes* lanes = static_cast<const Lanes*>(memory);
    const size_t slice = bytes / sizeof(Lanes) / threads;

    double best = 0;
    const double end = seconds() + duration;
    do {
        const double start = seconds();
        std::vector<std::thread> workers;
        for (size_t t = 1; t < threads; t++) workers.emplace_back(read_slice, lanes + t * slice, slice);
        read_slice(lanes, slice);
        for (std::thread& worker : workers) worker.join();
        const double rate = static_cast<double>(slice * threads * sizeof(Lanes)) / (seconds() - start) / 1e9;
        if (rate > best) best = rate;
    } while (seconds() < end);
    printf("%.2f\n", best);
    return 0;
}
