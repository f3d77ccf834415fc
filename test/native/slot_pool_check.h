// What store_check.cpp checks of the store's memory where the system sets a limit: a real one, RLIMIT_DATA of this process.
#pragma once
#include <sys/resource.h>

#include "core/store/slot_pool.h"
#include "store_use.h"

namespace tmoe {

/** Bytes that count in RLIMIT_DATA now; -1 where the system does not say. */
inline int64_t data_bytes() {
    FILE* file = fopen("/proc/self/status", "re");
    long long kib = -1;
    char line[256];
    while (file && kib < 0 && fgets(line, sizeof line, file)) {
        if (sscanf(line, "VmData: %lld kB", &kib) == 1) break;
    }
    if (file) fclose(file);
    return kib < 0 ? -1 : kib * 1024;
}

/** Slots are asked of the system when they are reserved, in one piece or not at all, and count no more once they were given back. */
inline void pool(const Experts&) {
    constexpr size_t kSlot = size_t{4} << 20;
    std::unique_ptr<SlotPool> slots;
    const int64_t before = data_bytes();
    CHECK_OK(SlotPool::create(kSlot, 256, slots));
    CHECK(before < 0 || data_bytes() < before + static_cast<int64_t>(kSlot));
    CHECK_OK(slots->reserve(8));
    for (size_t slot : {0, 1, 2, 6}) CHECK_OK(slots->take(slot));
    CHECK(slots->taken() == 4 && counters().live_bytes == static_cast<int64_t>(4 * kSlot));
    memset(slots->at(6), 7, kSlot);

    rlimit limit;
    CHECK(getrlimit(RLIMIT_DATA, &limit) == 0);
    const rlim_t whole = limit.rlim_cur;
    const bool limited = before >= 0 && sizeof(void*) == 8;
    if (limited) {
        limit.rlim_cur = static_cast<rlim_t>(data_bytes()) + 10 * kSlot;
        CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
        const Status refused = slots->reserve(40);
        const Status alone = slots->take(200);  // there is room for one that was not reserved
        CHECK_OK(slots->reserve(9));
        limit.rlim_cur = whole;
        CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
        CHECK_CODE(refused, RESOURCE_MEMORY_EXHAUSTED);
        CHECK(detail(refused, "required") != nullptr);
        CHECK_OK(alone);
        slots->give_back(200);
    }
    CHECK_OK(slots->reserve(40));
    CHECK(slots->at(6)[kSlot - 1] == 7);
    slots->give_back(6);
    slots->trim(3);
    CHECK(slots->taken() == 3 && slots->is_free(6) && slots->is_free(39) && !slots->is_free(2));
    CHECK(before < 0 || data_bytes() < before + static_cast<int64_t>(4 * kSlot));
    CHECK_OK(slots->take(6));
    CHECK(slots->at(6)[0] == 0 && slots->at(6)[kSlot - 1] == 0);
}

}  // namespace tmoe
