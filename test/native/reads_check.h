// What store_check.cpp checks of reads whose order matters: a demand finds every free thread, and what is late changes nothing any more.
#pragma once
#include <cerrno>

#include "store_use.h"

namespace tmoe {

/** A demand goes before every prefetch that has not begun, makes one of them a demand, and always finds a thread. */
inline void order(const Experts& files) {
    auto held = std::make_shared<Held>(blobs_of(files), 0, 1);
    const auto store = open_store(files, held, 12, 1);
    held->shut();
    store->begin_step();
    store->prefetch(1, {0, 1, 2, 3});
    held->wait_for_reads(1);
    CHECK(store->residency(1, 0) == Residency::Loading);
    CHECK_OK(store->begin_layer(1, {3, 7}));
    held->open();
    std::vector<ReadyExpert> ready;
    while (ready.size() < 2) CHECK_OK(store->next(ready, nullptr));
    for (const ReadyExpert& expert : ready) CHECK((expert.expert == 3 || expert.expert == 7) && is_right(files, 1, expert));
    store->end_layer();
    store->begin_step();
    CHECK_OK(use(*store, files, 1, {0, 1, 2, 3}));
    using Reads = std::vector<std::pair<uint32_t, uint32_t>>;
    CHECK((held->order() == Reads{{1, 0}, {1, 3}, {1, 7}, {1, 1}, {1, 2}}));
    held = std::make_shared<Held>(blobs_of(files), 0, 1);
    const auto wide = open_store(files, held, 12, 2);
    held->shut();
    wide->begin_step();
    wide->prefetch(1, {0, 1});
    held->wait_for_reads(1);
    CHECK_OK(wide->begin_layer(0, {5}));
    held->wait_for_reads(2);  // reads ahead leave a thread for it
    CHECK((held->order() == Reads{{1, 0}, {0, 5}}));
    held->open();
    wide->end_layer();
    const StoreCounts counts = store->counts();
    CHECK(counts.late >= 1 && counts.late <= counts.cache.hits && counts.cache.misses == 1);
    CHECK(store->layer_counts()[1].late == counts.late && store->layer_counts()[0].late == 0);
    CHECK(counts.prefetch_bytes == 4 * files.layout.bytes && counts.prefetch_used == counts.prefetch_bytes && counts.prefetch_wasted == 0);
    CHECK(counts.demand_bytes == files.layout.bytes);
}

/** What fits is read in the order of its placement, of each kind as many of every layer; nothing that is demoted, and nothing afterwards. */
inline void placed(const Experts& files) {
    const size_t count = files.layers * files.experts;
    std::vector<uint8_t> placement(count, static_cast<uint8_t>(Placement::Demoted));
    const auto place = [&](uint32_t expert, Placement as) {
        for (size_t layer = 0; layer < files.layers; layer++) placement[layer * files.experts + expert] = static_cast<uint8_t>(as);
    };
    place(8, Placement::Pinned);
    place(6, Placement::Preferred);
    place(7, Placement::Preferred);
    place(2, Placement::ByPolicy);
    place(3, Placement::ByPolicy);
    const auto read = [&](size_t slots) {
        auto held = std::make_shared<Held>(blobs_of(files), 0, 1);
        const auto store = open_store(files, held, slots, 1);
        CHECK_OK(store->preload(placement, nullptr, nullptr));
        auto order = held->order();
        std::sort(order.begin(), order.end());
        CHECK(store->counts().cache.evictions == 0 && store->counts().prefetch_bytes == 0);
        return order;
    };
    using Reads = std::vector<std::pair<uint32_t, uint32_t>>;
    CHECK((read(5) == Reads{{0, 6}, {0, 7}, {0, 8}, {1, 6}, {1, 8}}));
    CHECK((read(7) == Reads{{0, 2}, {0, 6}, {0, 7}, {0, 8}, {1, 6}, {1, 7}, {1, 8}}));
    CHECK(read(count).size() == 5 * files.layers);
}

/** A prefetch that is demanded before it began is read by a thread that prefetches leave free, and waits for none of them. */
inline void promoted(const Experts& files) {
    auto held = std::make_shared<Held>(blobs_of(files), 0, 1);
    const auto store = open_store(files, held, 12, 2);
    held->shut();
    store->begin_step();
    store->prefetch(1, {0, 1});
    CHECK(held->wait_for_reads(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // the other thread has seen that there is nothing for it
    CHECK_OK(store->begin_layer(1, {1}));
    CHECK(held->wait_for_reads(2));  // while the first is held back
    CHECK(held->order().back() == std::make_pair(1u, 1u));
    held->open();
    store->end_layer();
}

/** An expert's read is dropped while it is checked; the file has other bytes when it is read again. Its checksum is the new bytes'. */
inline void late_check(const Experts& files) {
    std::shared_ptr<ExpertSource> gguf;
    CHECK_OK(files.open_gguf(gguf));
    auto held = std::make_shared<Held>(gguf, 0, 1);
    const auto store = open_store(files, held, 5, 2);
    store->begin_step();
    held->hold_check(1, 0);
    store->prefetch(1, {0});
    CHECK(held->wait_for_check());
    store->begin_step();
    CHECK_OK(store->begin_layer(0, {0, 1, 2, 3, 4}));
    std::vector<ReadyExpert> ready;
    while (ready.size() < 4) CHECK_OK(store->next(ready, nullptr));  // the fifth waits for the slot
    store->end_layer();
    CHECK(!store->holds(1, 0));
    store->prefetch(0, {5});  // waits for it too, so what follows takes another one
    struct stat info;
    CHECK(stat(files.gguf_path.c_str(), &info) == 0);
    std::vector<uint8_t> whole(static_cast<size_t>(info.st_size)), other(whole.size());
    read_at(files.gguf_path, 0, whole.data(), whole.size());
    for (size_t i = 0; i < whole.size(); i++) other[i] = static_cast<uint8_t>(whole[i] ^ 85);
    write_at(files.gguf_path, 0, other.data(), other.size());
    store->begin_step();
    CHECK_OK(store->begin_layer(1, {0}));
    ready.clear();
    CHECK_OK(store->next(ready, nullptr));
    CHECK(ready.size() == 1 && !is_right(files, 1, ready[0]));
    store->end_layer();
    write_at(files.gguf_path, 0, whole.data(), whole.size());
    held->let_check_go();
    CHECK_OK(use(*store, files, 0, {5}));  // the late read has ended
    for (int i = 0; i < 4; i++) CHECK_OK(store->scrub());
}

/** An archived expert: its file has gone, so that it is to be brought again; or it is there and cannot be read, which no other copy mends. */
inline void brought(const Experts& files) {
    std::shared_ptr<ExpertSource> source;
    std::vector<std::vector<BlobPlace>> places = files.places;
    places[1][3].file = kInArchive;
    CHECK_OK(open_blob_source({files.blob_path}, places, files.layouts(), source));
    const auto store = open_store(files, source, 6);
    store->begin_step();
    const Status absent = use(*store, files, 1, {2, 3});
    CHECK_CODE(absent, EXPERT_UNAVAILABLE);
    CHECK(detail(absent, "archived") && detail(absent, "experts")->text == "3");
    store->bring(1, 3, files.blob_path.substr(0, files.blob_path.rfind('/')));  // a folder
    const Status unreadable = use(*store, files, 1, {2, 3});
    CHECK_CODE(unreadable, EXPERT_UNAVAILABLE);
    CHECK(!detail(unreadable, "archived") && detail(unreadable, "errno")->number == EISDIR && store->local(1, 3));
    store->bring(1, 3, files.blob_path + ".none");
    const Status gone = use(*store, files, 1, {2, 3});
    CHECK_CODE(gone, EXPERT_UNAVAILABLE);
    CHECK(detail(gone, "archived") && !store->local(1, 3));
}

}  // namespace tmoe
