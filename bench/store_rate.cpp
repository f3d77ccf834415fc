// Rates of the expert store's reads beside raw O_DIRECT reads of the same file, and the cost of a look-up. Compiled by bench/store.mjs.
//   store_rate probe FILE SECONDS                 random reads: KiB of a read, threads, GB/s
//   store_rate blobs FILE SECONDS THREADS...      the store on blobs of OLMoE's shape (Q4_0, 3.4 MiB), every demand a miss: threads, GB/s
//   store_rate gguf FILE SECONDS THREADS...       the same on the experts of a GGUF file, packed on the way
//   store_rate look-up FILE SECONDS               everything resident (64 experts of a small shape): nanoseconds of a demand
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "core/store/expert_store.h"

using namespace tmoe;

namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

struct Random {
    uint64_t state;
    uint32_t below(uint64_t end) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<uint32_t>((state >> 33) % end);
    }
};

int failed(const Status& status) {
    fprintf(stderr, "%s: %s\n", status_code_name(status.code()), status.message().c_str());
    return 1;
}

int probe(const char* path, double seconds) {
    const int file = open(path, O_RDONLY | O_DIRECT);
    const off_t size = lseek(file, 0, SEEK_END);
    if (file < 0) return failed(Status(StatusCode::FILE_READ_FAILED, "O_DIRECT is refused here"));
    for (size_t kib : {256, 512, 1024, 2048, 3584}) {
        for (size_t threads : {1, 2, 3, 4, 6, 8}) {
            const size_t bytes = kib << 10;
            std::atomic<uint64_t> done{0};
            std::vector<std::thread> readers;
            const auto begin = Clock::now();
            for (size_t t = 0; t < threads; t++) {
                readers.emplace_back([&, t] {
                    void* to = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
                    Random random{t + kib};
                    while (since(begin) < seconds) {
                        const off_t at = static_cast<off_t>(random.below(static_cast<uint64_t>(size) / bytes) * bytes);
                        if (pread(file, to, bytes, at) == static_cast<ssize_t>(bytes)) done += bytes;
                    }
                    munmap(to, bytes);
                });
            }
            for (std::thread& reader : readers) reader.join();
            printf("%zu %zu %.3f\n", kib, threads, static_cast<double>(done) / since(begin) / 1e9);
            fflush(stdout);
        }
    }
    close(file);
    return 0;
}

constexpr size_t kExperts = 64, kChosen = 8;

/** Steps of random demands with room for two layers' choices: nearly every one is a miss. */
int demands(const std::shared_ptr<ExpertSource>& source, const std::vector<ExpertLayout>& layouts, double seconds, size_t threads) {
    StoreOptions options;
    options.layouts = layouts;
    options.experts = kExperts;
    options.io_threads = threads;
    for (const ExpertLayout& layout : layouts) options.budget_bytes = std::max<uint64_t>(options.budget_bytes, 2 * kChosen * layout.bytes);
    std::shared_ptr<ExpertStore> store;
    const Status opened = ExpertStore::create(options, source, store);
    if (!opened.ok()) return failed(opened);
    Random random{threads};
    std::vector<ReadyExpert> ready;
    Clock::time_point begin = Clock::now();
    uint64_t before = 0;
    for (bool warm = false; !warm || since(begin) < seconds;) {
        store->begin_step();
        for (uint32_t layer = 0; layer < layouts.size(); layer++) {
            std::vector<uint32_t> experts;
            for (uint32_t expert = 0; expert < kExperts; expert++) {
                if (random.below(kExperts - expert) < kChosen - experts.size()) experts.push_back(expert);
            }
            Status status = store->begin_layer(layer, experts);
            for (ready.assign(1, {}); status.ok() && !ready.empty();) {
                ready.clear();
                status = store->next(ready, nullptr);
            }
            store->end_layer();
            if (!status.ok()) return failed(status);
        }
        if (warm) continue;
        warm = true;
        before = store->counts().demand_bytes;
        begin = Clock::now();
    }
    printf("%zu %.3f\n", threads, static_cast<double>(store->counts().demand_bytes - before) / since(begin) / 1e9);
    fflush(stdout);
    return 0;
}

/** Blobs of the file's own bytes, with the checksums that they have. */
Status open_blobs(const char* path, const ExpertLayout& layout, size_t layers, std::shared_ptr<ExpertSource>& out) {
    std::vector<std::vector<BlobPlace>> places(layers, std::vector<BlobPlace>(kExperts));
    std::vector<uint8_t> blob(layout.bytes);
    FILE* file = fopen(path, "rb");
    for (size_t i = 0; file && i < layers * kExperts; i++) {
        if (fread(blob.data(), 1, blob.size(), file) != blob.size()) break;
        places[i / kExperts][i % kExperts] = {0, i * layout.bytes, crc32c(blob.data(), blob.size())};
    }
    if (file) fclose(file);
    return open_blob_source({path}, std::move(places), std::vector<ExpertLayout>(layers, layout), out);
}

Status open_gguf(const char* path, std::vector<ExpertLayout>& layouts, std::shared_ptr<ExpertSource>& out) {
    std::shared_ptr<GgufFile> file;
    TMOE_RETURN_IF_ERROR(GgufFile::open(path, file));
    std::vector<GgufExperts> tensors;
    for (;;) {
        const std::string prefix = format("blk.%zu.ffn_", tensors.size());
        const GgufExperts one = {file->find(prefix + "gate_exps.weight"), file->find(prefix + "up_exps.weight"), file->find(prefix + "down_exps.weight")};
        if (!one.gate || !one.up || !one.down) break;
        const auto type = [](const GgufTensor* tensor) { return static_cast<DType>(tensor->type_id); };
        layouts.push_back(expert_layout(type(one.gate), type(one.up), type(one.down), one.gate->shape[0], one.gate->shape[1]));
        tensors.push_back(one);
    }
    return open_gguf_source(file, std::move(tensors), layouts, out);
}

int look_up(const char* path, double seconds) {
    const ExpertLayout layout = expert_layout(DType::Q4_0, DType::Q4_0, DType::Q4_0, 128, 128);
    std::shared_ptr<ExpertSource> source;
    const size_t layers = 16;
    Status status = open_blobs(path, layout, layers, source);
    if (!status.ok()) return failed(status);
    StoreOptions options;
    options.layouts.assign(layers, layout);
    options.experts = kExperts;
    options.budget_bytes = layers * kExperts * layout.bytes;
    std::shared_ptr<ExpertStore> store;
    status = ExpertStore::create(options, source, store);
    if (status.ok()) status = store->preload(nullptr, nullptr);
    if (!status.ok()) return failed(status);
    Random random{1};
    std::vector<std::vector<uint32_t>> choices(256);
    for (std::vector<uint32_t>& experts : choices) {
        for (uint32_t expert = 0; expert < kExperts; expert++) {
            if (random.below(kExperts - expert) < kChosen - experts.size()) experts.push_back(expert);
        }
    }
    std::vector<ReadyExpert> ready;
    const uint64_t before = store->counts().bookkeeping_nanoseconds;
    size_t uses = 0;
    const auto begin = Clock::now();
    for (size_t step = 0; since(begin) < seconds; step++) {
        store->begin_step();
        for (uint32_t layer = 0; layer < layers; layer++) {
            status = store->begin_layer(layer, choices[(step * layers + layer) % choices.size()]);
            for (ready.assign(1, {}); status.ok() && !ready.empty();) {
                ready.clear();
                status = store->next(ready, nullptr);
            }
            store->end_layer();
            uses += kChosen;
        }
    }
    printf("%.1f %.1f\n", since(begin) * 1e9 / static_cast<double>(uses),
           static_cast<double>(store->counts().bookkeeping_nanoseconds - before) / static_cast<double>(uses));
    return 0;
}

}  // namespace

int main(int count, char** words) {
    if (count < 4) return 2;
    const std::string what = words[1];
    const double seconds = atof(words[3]);
    if (what == "probe") return probe(words[2], seconds);
    if (what == "look-up") return look_up(words[2], seconds);
    std::shared_ptr<ExpertSource> source;
    std::vector<ExpertLayout> layouts;
    if (what == "blobs") {
        const ExpertLayout layout = expert_layout(DType::Q4_0, DType::Q4_0, DType::Q4_0, 2048, 1024);
        const int file = open(words[2], O_RDONLY | O_CLOEXEC);
        layouts.assign(static_cast<size_t>(lseek(file, 0, SEEK_END)) / (layout.bytes * kExperts), layout);
        close(file);
        const Status opened = open_blobs(words[2], layout, layouts.size(), source);
        if (!opened.ok()) return failed(opened);
    } else {
        const Status opened = open_gguf(words[2], layouts, source);
        if (!opened.ok()) return failed(opened);
    }
    for (int i = 4; i < count; i++) {
        if (demands(source, layouts, seconds, strtoul(words[i], nullptr, 10))) return 1;
    }
    return 0;
}
