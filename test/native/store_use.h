// What store_check.cpp checks with: conditions, and a store used as a step uses it.
#pragma once
#include <algorithm>

#include "core/store/expert_store.h"
#include "store_fixture.h"

namespace tmoe {

inline int failures = 0;
inline const char* current = "";
inline void fail(const std::string& what, int line) {
    fprintf(stderr, "%s, line %d: %s\n", current, line, what.c_str());
    failures++;
}
#define CHECK(condition) \
    do {                 \
        if (!(condition)) fail(#condition, __LINE__); \
    } while (0)
#define CHECK_OK(expression) \
    do {                     \
        const Status checked = (expression); \
        if (!checked.ok()) fail(std::string(#expression ": ") + checked.message(), __LINE__); \
    } while (0)
/** Names the code, so that the test can say which codes were raised. */
inline void check_code(const Status& status, StatusCode code, int line) {
    if (status.code() != code) fail(std::string(status_code_name(status.code())) + " and not " + status_code_name(code) + ": " + status.message(), line);
    else printf("%s: %s\n", current, status_code_name(code));
}
#define CHECK_CODE(expression, code) check_code((expression), StatusCode::code, __LINE__)

inline const Detail* detail(const Status& status, const char* key) {
    for (const Detail& d : status.details()) {
        if (d.key == key) return &d;
    }
    return nullptr;
}

using Expected = std::vector<uint32_t>;

inline std::shared_ptr<ExpertStore> open_store(const Experts& files, std::shared_ptr<ExpertSource> source, size_t slots, size_t threads = 2) {
    StoreOptions options;
    options.layouts = files.layouts();
    options.experts = files.experts;
    options.budget_bytes = slots * files.layout.bytes;
    options.io_threads = threads;
    options.policy = CachePolicy::Lru;
    options.scrub = 3;
    std::shared_ptr<ExpertStore> store;
    CHECK_OK(ExpertStore::create(options, std::move(source), store));
    return store;
}

inline std::shared_ptr<ExpertSource> blobs_of(const Experts& files) {
    std::shared_ptr<ExpertSource> source;
    CHECK_OK(files.open_blobs(source));
    return source;
}

inline bool is_right(const Experts& files, uint32_t layer, const ReadyExpert& ready) {
    return memcmp(ready.blob, files.blob(layer, ready.expert).data(), files.layout.bytes) == 0;
}

/** Uses a layer's experts as a step does; what is handed out is looked at twice, as a slow computation would. */
inline Status use(ExpertStore& store, const Experts& files, uint32_t layer, const Expected& experts, const std::atomic<bool>* cancel = nullptr) {
    TMOE_RETURN_IF_ERROR(store.begin_layer(layer, experts));
    Expected seen;
    Status status;
    for (;;) {
        std::vector<ReadyExpert> ready;
        status = store.next(ready, cancel);
        if (!status.ok() || ready.empty()) break;
        for (const ReadyExpert& expert : ready) {
            if (!is_right(files, layer, expert)) fail(format("expert %u of layer %u has other bytes", expert.expert, layer), __LINE__);
            seen.push_back(expert.expert);
        }
        if (seen.size() % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
        for (const ReadyExpert& expert : ready) CHECK(is_right(files, layer, expert));
    }
    store.end_layer();
    std::sort(seen.begin(), seen.end());
    if (status.ok() && seen != experts) fail("not every expert was handed out once", __LINE__);
    return status;
}

inline Expected all_of(size_t experts) {
    Expected all;
    for (uint32_t expert = 0; expert < experts; expert++) all.push_back(expert);
    return all;
}

inline Expected some(Random& random, size_t experts, size_t count) {
    Expected all = all_of(experts);
    for (size_t i = 0; i < count; i++) std::swap(all[i], all[i + random.below(static_cast<uint32_t>(experts - i))]);
    all.resize(count);
    std::sort(all.begin(), all.end());
    return all;
}

inline void read_at(const std::string& path, size_t offset, void* to, size_t bytes) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(pread(file, to, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes));
    close(file);
}

inline void write_at(const std::string& path, size_t offset, const void* data, size_t bytes) {
    const int file = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    CHECK(pwrite(file, data, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes));
    close(file);
}

}  // namespace tmoe
