// Checks the expert store against real files, without Node: what it hands out, its budget, its decisions, and what a damaged file does.
//   store_check FOLDER...   runs every case in each folder (one on a disk, one in memory) and prints one line for each
// store.test.ts builds and runs it under ThreadSanitizer and under AddressSanitizer with UBSan. Exit status 1 where a case failed.
#include "core/store/direct_file.h"
#include "core/store/wave_schedule.h"
#include "prefetcher_check.h"
#include "reads_check.h"
#include "slot_pool_check.h"
#include "store_use.h"

using namespace tmoe;

namespace {

/** The two vectors of RFC 3720 appendix B.4 that have a rule, its counting ones, and the form with the instruction against the table's. */
void checksum(const Experts&) {
    uint8_t zeros[32] = {}, ones[32], up[32], down[32];
    for (int i = 0; i < 32; i++) ones[i] = 0xff, up[i] = static_cast<uint8_t>(i), down[i] = static_cast<uint8_t>(31 - i);
    CHECK(crc32c(zeros, 32) == 0x8a9136aau && crc32c(ones, 32) == 0x62a8ab43u && crc32c(up, 32) == 0x46dd794eu && crc32c(down, 32) == 0x113fdb5cu);
    Random random{5};
    std::vector<uint8_t> bytes(100000);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.next());
    for (size_t length : {0, 1, 7, 8, 9, 4096, 12287, 12288, 12289, 24577, 99990}) {
        for (size_t offset : {0, 1, 5}) {
            const uint32_t whole = crc32c_by_table(bytes.data() + offset, length);
            CHECK(crc32c(bytes.data() + offset, length) == whole);
            CHECK(crc32c(bytes.data() + offset + length / 3, length - length / 3, crc32c(bytes.data() + offset, length / 3)) == whole);
            CHECK(crc32c_join(crc32c(bytes.data() + offset, length / 3), crc32c(bytes.data() + offset + length / 3, length - length / 3), length - length / 3) == whole);
        }
    }
}

/** Both sources give the blobs that were packed by hand, in few slots too. */
void sources(const Experts& files) {
    for (size_t slots : {files.layers * files.experts, size_t{3}}) {
        std::shared_ptr<ExpertSource> gguf;
        CHECK_OK(files.open_gguf(gguf));
        for (const std::shared_ptr<ExpertSource>& source : {gguf, blobs_of(files)}) {
            const auto store = open_store(files, source, slots, 3);
            store->begin_step();
            for (uint32_t layer = 0; layer < files.layers; layer++) CHECK_OK(use(*store, files, layer, all_of(files.experts)));
            CHECK(store->holds_all() == (slots > 3));
            CHECK(store->counts().cache.misses == files.layers * files.experts);
        }
    }
}

void budget(const Experts& files) {
    const auto store = open_store(files, blobs_of(files), 7, 3);  // blobs need no scratch: all that lives is in slots
    Random random{11};
    for (int step = 0; step < 40; step++) {
        store->begin_step();
        for (uint32_t layer = 0; layer < files.layers; layer++) {
            CHECK_OK(use(*store, files, layer, some(random, files.experts, 1 + random.below(6))));
            store->prefetch((layer + 1) % static_cast<uint32_t>(files.layers), some(random, files.experts, 2));
            CHECK(counters().live_bytes <= static_cast<int64_t>(7 * files.layout.bytes));
        }
        if (step == 20) CHECK_OK(store->set_budget(4 * files.layout.bytes));
        if (step >= 20) CHECK(counters().live_bytes <= static_cast<int64_t>(4 * files.layout.bytes));
        if (step == 30) CHECK_OK(store->set_budget(7 * files.layout.bytes));
        if (step == 30) step = 40;
    }
    const StoreCounts counts = store->counts();
    CHECK(counts.cache.evictions > 0 && counts.demand_bytes == counts.cache.misses * files.layout.bytes);
    CHECK(counts.cache.hits + counts.cache.misses == counts.cache.uses);
    CHECK(counts.prefetch_used + counts.prefetch_wasted <= counts.prefetch_bytes);

    StoreOptions options;
    options.layouts = files.layouts();
    options.experts = files.experts;
    options.workers = 3;
    options.budget_bytes = 4 * files.layout.bytes - 1;
    std::shared_ptr<ExpertStore> none;
    const Status small = ExpertStore::create(options, blobs_of(files), none);
    CHECK_CODE(small, RESOURCE_BUDGET_TOO_SMALL);
    CHECK(detail(small, "required")->number == static_cast<double>(4 * files.layout.bytes));
    CHECK_CODE(store->set_budget(files.layout.bytes), RESOURCE_BUDGET_TOO_SMALL);
    CHECK_OK(store->pin(0, 0, true));
    for (uint32_t expert = 1; expert < 5; expert++) CHECK_OK(store->pin(0, expert, true));
    CHECK_CODE(store->pin(1, 0, true), RESOURCE_BUDGET_TOO_SMALL);
}

/** Who looks while experts come and go never finds more of them in memory than fit. */
void looks(const Experts& beside) {
    const Folder folder(beside.blob_path.substr(0, beside.blob_path.rfind('/')).c_str());
    const Experts files(folder.path, 2, 256, 32, 32);   // so many that a look takes a while
    constexpr size_t kSlots = 32;
    const auto store = open_store(files, blobs_of(files), kSlots, 2);
    std::atomic<bool> ended{false};
    std::atomic<size_t> most{0};
    std::thread looker([&] {
        while (!ended) {
            const std::vector<Residency> found = store->residencies();
            most = std::max<size_t>(most, static_cast<size_t>(std::count(found.begin(), found.end(), Residency::Resident)));
        }
    });
    Random random{23};
    for (int step = 0; step < 100; step++) {
        store->begin_step();
        for (uint32_t layer = 0; layer < files.layers; layer++) CHECK_OK(use(*store, files, layer, some(random, files.experts, kSlots)));
    }
    ended = true;
    looker.join();
    CHECK(most > 0 && most <= kSlots);
}

/** More experts than slots: every one comes once, and the reads of a later part begin before the earlier ones are done with. */
void waves(const Experts& files) {
    auto held = std::make_shared<Held>(blobs_of(files), 0, 1);
    const auto store = open_store(files, held, 4, 2);
    store->begin_step();
    CHECK_OK(use(*store, files, 0, all_of(files.experts)));
    CHECK(store->counts().cache.waves == 1 + (files.experts - 4 + 1) / 2);
    for (int step = 0; step < 5; step++) {
        store->begin_step();
        for (uint32_t layer = 0; layer < files.layers; layer++) CHECK_OK(use(*store, files, layer, all_of(files.experts)));
    }
    const auto slow = open_store(files, held, 4, 1);
    held->allow(2);
    slow->begin_step();
    CHECK_OK(slow->begin_layer(0, all_of(files.experts)));
    std::vector<ReadyExpert> ready;
    while (ready.size() < 2) CHECK_OK(slow->next(ready, nullptr));
    const std::atomic<bool> stop{true};
    CHECK_CODE(slow->next(ready, &stop), CANCELLED);
    CHECK(slow->residency(0, 0) == Residency::Absent && slow->residency(0, 1) == Residency::Absent);
    for (uint32_t expert = 2; expert < 6; expert++) CHECK(slow->residency(0, expert) == Residency::Loading);
    slow->end_layer();
    held->open();
    CHECK_OK(use(*slow, files, 0, all_of(files.experts)));
}

/** A read that O_DIRECT refuses (here because of its address) makes the file one of plain reads; both end where the file ends. */
void plain(const Experts& files) {
    std::shared_ptr<DirectFile> file;
    CHECK_OK(DirectFile::open(files.blob_path, file));
    const size_t bytes = files.layout.bytes;
    Buffer buffer;
    CHECK_OK(buffer.allocate(bytes + 2 * kBlobAlignment));
    uint8_t* aligned = buffer.data() + (kBlobAlignment - reinterpret_cast<uintptr_t>(buffer.data()) % kBlobAlignment) % kBlobAlignment;
    for (uint8_t* to : {aligned, aligned + 1, aligned}) {
        CHECK_OK(file->read(bytes, to, bytes, bytes));
        CHECK(memcmp(to, files.blob(0, 1).data(), bytes) == 0);
        CHECK_CODE(file->read(file->bytes() - kBlobAlignment, to, bytes, bytes), FILE_READ_FAILED);
        CHECK_OK(file->read(file->bytes() - kBlobAlignment, to, bytes, kBlobAlignment));
    }
}

/** A cancelled step releases everything while its reads still run; a store can go while reads run into it. */
void cancel(const Experts& files) {
    {
        auto held = std::make_shared<Held>(blobs_of(files), 0, 1);
        auto store = open_store(files, held, 6, 2);
        held->shut();
        store->begin_step();
        std::atomic<bool> stop{false};
        std::thread canceller([&] {
            held->wait_for_reads(2);
            stop = true;
        });
        CHECK_CODE(use(*store, files, 0, {0, 1, 2, 3, 4, 5}, &stop), CANCELLED);
        canceller.join();
        size_t loading = 0;
        for (uint32_t expert = 0; expert < 6; expert++) loading += store->residency(0, expert) == Residency::Loading;
        CHECK(loading >= 1 && loading <= 2);  // what had begun; the others were dropped
        held->open();
        store->begin_step();
        CHECK_OK(use(*store, files, 1, all_of(files.experts)));
        CHECK_OK(use(*store, files, 0, {0, 1, 2, 3, 4, 5}));
        held->shut();
        store->prefetch(1, {6, 7});
        store->begin_step();
        CHECK_OK(store->begin_layer(1, {0, 1}));
        held->wait_for_reads(held->order().size());
        std::weak_ptr<ExpertStore> gone = store;
        store.reset();  // returns although reads are held back
        CHECK(gone.expired());
        held->open();
        store = open_store(files, blobs_of(files), 6, 2);
        const int64_t files_open = counters().open_files;
        store->prefetch(0, {0, 1, 2, 3});
        store->close();
        store.reset();
        CHECK(counters().open_files < files_open);  // after `close` nothing is left
    }
}

/** A prefetch is evicted while it is being read: its slot's next expert waits for that read, and nothing is mixed. */
void stale(const Experts& files) {
    auto held = std::make_shared<Held>(blobs_of(files), 0, 1);
    const auto store = open_store(files, held, 3, 4);
    held->shut();
    store->begin_step();
    store->prefetch(1, {0, 1, 2});
    held->wait_for_reads(3);
    CHECK_OK(store->begin_layer(0, {0, 1, 2}));
    CHECK(store->residency(1, 0) == Residency::Absent && store->residency(0, 0) == Residency::Loading);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    CHECK(held->order().size() == 3);
    held->open();
    store->end_layer();  // drops what waits for its slot
    CHECK_OK(use(*store, files, 0, {0, 1, 2}));
    const StoreCounts counts = store->counts();
    CHECK(counts.prefetch_wasted == 3 * files.layout.bytes && counts.prefetch_used == 0);
    CHECK(store->layer_counts()[1].prefetch_wasted == counts.prefetch_wasted && store->layer_counts()[0].prefetch_wasted == 0);
}

/** A file is cut off, a bit flips: the request fails with the code, the store serves the others, and again when the file is whole. */
void damage(const Experts& files) {
    auto store = open_store(files, blobs_of(files), 3);
    const size_t bytes = files.layout.bytes, whole = files.layers * files.experts * bytes;
    store->begin_step();
    CHECK_OK(use(*store, files, 0, {0, 1}));
    const auto last = static_cast<uint32_t>(files.layers - 1), expert = static_cast<uint32_t>(files.experts - 1);
    CHECK(truncate(files.blob_path.c_str(), static_cast<off_t>(whole - 100)) == 0);
    const Status cut = use(*store, files, last, {0, expert});
    CHECK_CODE(cut, EXPERT_UNAVAILABLE);
    CHECK(detail(cut, "layer")->number == last && detail(cut, "expert")->number == expert && detail(cut, "path")->text == files.blob_path);
    CHECK(store->residency(last, expert) == Residency::Unavailable && store->counts().read_errors == 1);
    CHECK_OK(use(*store, files, last, {0, 1, 2}));
    CHECK_CODE(use(*store, files, last, {expert}), EXPERT_UNAVAILABLE);
    std::shared_ptr<ExpertSource> again;
    CHECK_CODE(files.open_blobs(again), MODEL_CORRUPTED);
    write_at(files.blob_path, whole - bytes, files.blob(last, expert).data(), bytes);
    CHECK_OK(use(*store, files, last, {0, expert}));

    const uint8_t flipped = files.blob(0, 4)[bytes / 2] ^ 16;
    write_at(files.blob_path, 4 * bytes + bytes / 2, &flipped, 1);
    const Status corrupt = use(*store, files, 0, {3, 4, 5});
    CHECK_CODE(corrupt, EXPERT_CORRUPTED);
    CHECK(detail(corrupt, "offset")->number == static_cast<double>(4 * bytes) && detail(corrupt, "file")->text == files.blob_path);
    CHECK(store->residency(0, 4) == Residency::Unavailable);
    CHECK_OK(use(*store, files, 0, {3, 5}));
    store->prefetch(0, {4});  // one that fails is tried again by the demand
    for (int i = 0; i < 2000 && store->residency(0, 4) == Residency::Loading; i++) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(store->residency(0, 4) == Residency::Unavailable);
    write_at(files.blob_path, 4 * bytes + bytes / 2, &files.blob(0, 4)[bytes / 2], 1);
    CHECK_OK(use(*store, files, 0, {3, 4, 5}));

    std::shared_ptr<ExpertSource> gguf;
    CHECK_OK(files.open_gguf(gguf));
    store = open_store(files, gguf, 3);
    struct stat info;
    CHECK(stat(files.gguf_path.c_str(), &info) == 0);
    std::vector<uint8_t> tail(5000);
    read_at(files.gguf_path, static_cast<size_t>(info.st_size - 5000), tail.data(), tail.size());
    CHECK(truncate(files.gguf_path.c_str(), info.st_size - 5000) == 0);
    CHECK_CODE(use(*store, files, last, {expert}), EXPERT_UNAVAILABLE);
    CHECK_OK(use(*store, files, last, {0}));
    write_at(files.gguf_path, static_cast<size_t>(info.st_size - 5000), tail.data(), tail.size());
    CHECK_OK(use(*store, files, last, {expert}));
    std::shared_ptr<ExpertSource> none;
    CHECK_CODE(open_blob_source({files.blob_path + ".none"}, files.places, files.layouts(), none), MODEL_NOT_FOUND);
}

/** Everything read ahead, the budget shrunk and grown; pinned experts stay. */
void resize(const Experts& files) {
    const size_t count = files.layers * files.experts;
    const auto store = open_store(files, blobs_of(files), count + 5, 2);
    size_t calls = 0;
    CHECK_OK(store->preload({}, [&](size_t done, size_t of) { CHECK(done == ++calls && of == count); }, nullptr));
    CHECK(calls == count && store->holds_all() && store->counts().prefetch_bytes == 0);
    CHECK(store->counts().resident_bytes == count * files.layout.bytes);
    CHECK(counters().live_bytes == static_cast<int64_t>(count * files.layout.bytes));
    CHECK_OK(store->pin(1, 2, true));
    store->demote(0, 1, true);
    for (size_t slots : {count - 1, count / 2, size_t{5}, count, size_t{3}, count}) {
        CHECK_OK(store->set_budget(slots * files.layout.bytes));
        CHECK(counters().live_bytes <= static_cast<int64_t>(slots * files.layout.bytes));
        CHECK(store->residency(1, 2) == Residency::Resident);
        if (slots == count - 1) CHECK(store->residency(0, 1) == Residency::Absent);
        store->begin_step();
        for (uint32_t layer = 0; layer < files.layers; layer++) CHECK_OK(use(*store, files, layer, all_of(files.experts)));
        CHECK(counters().live_bytes <= static_cast<int64_t>(slots * files.layout.bytes));
    }
    CHECK(store->holds_all());
    std::atomic<bool> stop{true};
    const auto other = open_store(files, blobs_of(files), count, 1);
    CHECK_CODE(other->preload({}, nullptr, &stop), CANCELLED);
    CHECK_OK(other->preload({}, nullptr, nullptr));
    CHECK(other->holds_all());
}

/** A bit of memory flips: it is found within one round, and the expert is read again. */
void scrub(const Experts& files) {
    const auto store = open_store(files, blobs_of(files), 8, 2);
    store->begin_step();
    CHECK_OK(store->begin_layer(1, {2, 4, 6}));
    std::vector<ReadyExpert> ready;
    while (ready.size() < 3) CHECK_OK(store->next(ready, nullptr));
    store->end_layer();
    for (int i = 0; i < 4; i++) CHECK_OK(store->scrub());
    for (const ReadyExpert& expert : ready) {
        if (expert.expert == 4) const_cast<uint8_t*>(expert.blob)[files.layout.bytes / 3] ^= 1;
    }
    CHECK_OK(use(*store, files, 0, {0, 1}));
    Status status;
    for (int i = 0; i < 2 && status.ok(); i++) status = store->scrub();  // 5 experts, 3 at a time
    CHECK_CODE(status, RUNTIME_MEMORY_CORRUPTION);
    CHECK(detail(status, "layer")->number == 1 && detail(status, "expert")->number == 4);
    CHECK(store->residency(1, 4) == Residency::Absent);
    CHECK_OK(use(*store, files, 1, {2, 4, 6}));
    for (int i = 0; i < 4; i++) CHECK_OK(store->scrub());
}

/** A run of demands and prefetches: what holds a slot after each layer, and the counts. */
std::vector<uint64_t> decisions(const Experts& files, uint64_t delays, size_t threads, bool prefetching, CacheCounts& counts) {
    auto held = std::make_shared<Held>(blobs_of(files), delays ? 300 : 0, delays);
    const auto store = open_store(files, held, 6, threads);
    std::vector<uint64_t> trace;
    Random random{77};
    for (int step = 0; step < 25; step++) {
        store->begin_step();
        for (uint32_t layer = 0; layer < files.layers; layer++) {
            CHECK_OK(use(*store, files, layer, some(random, files.experts, 1 + random.below(static_cast<uint32_t>(files.experts)))));
            if (prefetching) store->prefetch((layer + 1) % static_cast<uint32_t>(files.layers), some(random, files.experts, 2));
            uint64_t held_slots = 0;
            for (uint32_t l = 0; l < files.layers; l++) {
                for (uint32_t e = 0; e < files.experts; e++) held_slots = held_slots << 1 | (store->residency(l, e) != Residency::Absent);
            }
            trace.push_back(held_slots);
        }
    }
    counts = store->counts().cache;
    return trace;
}

/** The same demands give the same evictions, however long the reads take; and the cache alone gives the same counts. */
void determinism(const Experts& files) {
    for (bool prefetching : {false, true}) {
        CacheCounts first, other;
        const std::vector<uint64_t> trace = decisions(files, 0, 1, prefetching, first);
        for (uint64_t delays : {1, 2, 3}) CHECK(decisions(files, delays, 1 + delays, prefetching, other) == trace);
        CHECK(first.evictions == other.evictions && first.hits == other.hits && first.misses == other.misses);
        if (prefetching) continue;
        CacheOptions options;
        options.layers = files.layers;
        options.experts = files.experts;
        options.slots = 6;
        options.policy = CachePolicy::Lru;
        std::unique_ptr<ExpertCache> cache;
        CHECK_OK(ExpertCache::create(options, cache));
        WaveSchedule schedule(*cache);
        Random random{77};
        for (int step = 0; step < 25; step++) {
            cache->begin_step();
            for (uint32_t layer = 0; layer < files.layers; layer++) {
                Expected entries = some(random, files.experts, 1 + random.below(static_cast<uint32_t>(files.experts)));
                for (uint32_t& entry : entries) entry += layer * static_cast<uint32_t>(files.experts);
                schedule.begin(layer, entries);
                while (schedule.parts() > 0) schedule.advance();
            }
        }
        const CacheCounts& alone = cache->counts();
        CHECK(alone.hits == first.hits && alone.misses == first.misses && alone.evictions == first.evictions && alone.waves == first.waves);
    }
}

void run(const std::string& in, bool large) {
    const Folder folder(in.c_str());
    // Large experts are read in several pieces.
    const Experts files = large ? Experts(folder.path, 2, 4, 512, 2080) : Experts(folder.path, 2, 9, 64, 96);
    struct {
        const char* name;
        void (*check)(const Experts&);
        bool also_large;
    } const cases[] = {{"checksum", checksum, false}, {"sources", sources, true}, {"plain", plain, false},   {"budget", budget, false}, {"looks", looks, false},
                       {"waves", waves, false},       {"order", order, false},    {"cancel", cancel, false}, {"stale", stale, false},
                       {"damage", damage, false},     {"resize", resize, true},   {"scrub", scrub, false},
                       {"determinism", determinism, false}, {"pool", pool, false}, {"promoted", promoted, false}, {"placed", placed, false}, {"late_check", late_check, false},
                       {"brought", brought, false},                       {"guesses", guesses, false},   {"predictions", predictions, false}};
    for (const auto& entry : cases) {
        if (large && !entry.also_large) continue;
        current = entry.name;
        const int before = failures;
        entry.check(files);
        // Threads end by themselves, and with the last of them a store's memory and its files go.
        for (int i = 0; i < 2000 && (counters().live_bytes != 0 || counters().open_files != 0); i++) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        CHECK(counters().live_bytes == 0 && counters().open_files == 0);
        printf("%s: %s\n", entry.name, failures == before ? "passed" : "FAILED");
        fflush(stdout);
    }
}

}  // namespace

int main(int count, char** folders) {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    for (int i = 1; i < count; i++) {
        run(folders[i], false);
        if (i == 1) run(folders[i], true);
    }
    return failures || count < 2 ? 1 : 0;
}
