// The device of a host build: heap memory, launches by the emulation. Copies and launches are done at once, or with TIERED_MOE_EMULATED_SEED
// (any number) as late as the streams' waits allow, or by chance before that, with threads and blocks in a shuffled order: what is read, written
// or freed without an order between the streams then shows. TIERED_MOE_EMULATED_MEMORY: bytes that all
// devices share; TIERED_MOE_EMULATED_DEVICES: how many there are; TIERED_MOE_EMULATED_FAULT: while it is set every device is as after a fault
// that stays. A launch on a stream of another device than the thread's, and a copy between a stream and another device's memory, fail.
#include "cuda/api.h"

#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <utility>

namespace tmoe {
namespace cuda {

namespace {

uint8_t* allocate(size_t bytes) { return static_cast<uint8_t*>(::operator new(bytes ? bytes : 1, std::align_val_t{256}, std::nothrow)); }
void release(uint8_t* memory) { ::operator delete(memory, std::align_val_t{256}); }

uint64_t number_of(const char* variable, uint64_t otherwise) {
    const char* text = std::getenv(variable);
    return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

uint64_t device_memory() { return number_of("TIERED_MOE_EMULATED_MEMORY", uint64_t{1} << 34); }

/** Everything below is one thread's at a time, whatever streams it works on. */
std::recursive_mutex device;
std::map<const uint8_t*, size_t> pinned;   // what a copy reads when it runs; of other host memory, when it is asked for
std::map<const uint8_t*, int> places;      // the device of each block of device memory
thread_local int current = 0;              // as on a device: 0 until the thread opens another

/** A stream's work that has not run. */
struct Queue {
    int device = current;
    std::deque<std::function<Status()>> work;
    uint64_t asked = 0, done = 0;
    Status failure;   // the first, until it is reported

    void run_to(uint64_t count) {
        while (done < count && !work.empty()) {
            const std::function<Status()> next = std::move(work.front());
            work.pop_front();
            done++;
            Status status = next();
            if (failure.ok()) failure = std::move(status);
        }
    }
};
std::set<Queue*> queues;

Queue& queue_of(void* handle) { return *static_cast<Queue*>(handle); }

/** Null where work runs as it is asked for. */
uint64_t* lateness() {
    static uint64_t seed = number_of("TIERED_MOE_EMULATED_SEED", 0);
    return seed ? &seed : nullptr;
}

Status faulty(int ordinal, const std::string& what) { return Status(StatusCode::CUDA_DEVICE_FAILED, what).with("device", ordinal).with("detail", "emulated"); }

Status check_fault(int ordinal) { return std::getenv("TIERED_MOE_EMULATED_FAULT") ? faulty(ordinal, "the device failed before this call") : Status(); }

/** The memory is of the stream's device. */
Status check_place(void* handle, const void* at, size_t bytes) {
    const auto after = places.upper_bound(static_cast<const uint8_t*>(at));
    const int own = queue_of(handle).device, found = after == places.begin() ? -1 : std::prev(after)->second;
    return bytes == 0 || found == own ? Status() : faulty(own, format("a stream of device %d copies memory of device %d", own, found));
}

Status ask(void* handle, std::function<Status()> work) {
    TMOE_RETURN_IF_ERROR(check_fault(queue_of(handle).device));
    uint64_t* const state = lateness();
    if (!state) return work();
    Queue& queue = queue_of(handle);
    queue.work.push_back(std::move(work));
    queue.asked++;
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    if ((*state >> 33) % 4 == 0) queue.run_to(queue.done + (*state >> 40) % 8);  // a device may have come so far
    return {};
}

/** As a device does before it gives memory back. */
void run_all() {
    for (Queue* queue : queues) queue->run_to(queue->asked);
}

bool is_pinned(const void* at) {
    const auto* address = static_cast<const uint8_t*>(at);
    auto block = pinned.upper_bound(address);
    if (block == pinned.begin()) return false;
    --block;
    return address < block->first + block->second;
}

Status copy(void* handle, void* to, const void* from, size_t bytes) {
    return ask(handle, [=]() -> Status {
        if (bytes) memcpy(to, from, bytes);
        return {};
    });
}

}  // namespace

DeviceCounters& device_counters() {
    static DeviceCounters all;
    return all;
}

Status open_device(int ordinal, DeviceFacts& out) {
    const uint64_t devices = number_of("TIERED_MOE_EMULATED_DEVICES", 1);
    if (ordinal < 0 || static_cast<uint64_t>(ordinal) >= devices) {
        return Status(StatusCode::CUDA_DEVICE_FAILED, format("there is no CUDA device %d; there are %llu", ordinal, static_cast<unsigned long long>(devices)))
            .with("device", ordinal)
            .with("devices", static_cast<double>(devices));
    }
    TMOE_RETURN_IF_ERROR(check_fault(ordinal));
    current = ordinal;
    out = {};
    out.ordinal = ordinal;
    out.name = "host emulation";
    out.major = 8;
    out.memory_bytes = device_memory();
    out.emulated = out.mma = true;
    std::lock_guard<std::recursive_mutex> guard(device);  // another thread's kernels may draw their order now
    if (const uint64_t* seed = lateness()) host::set_order(host::Order::Shuffled, *seed);
    return {};
}

Status free_memory(int ordinal, uint64_t& out) {
    TMOE_RETURN_IF_ERROR(check_fault(ordinal));
    current = ordinal;
    const auto held = static_cast<uint64_t>(device_counters().device_bytes.load());
    out = device_memory() > held ? device_memory() - held : 0;
    return {};
}

Stream::~Stream() {
    if (!handle_) return;
    std::lock_guard<std::recursive_mutex> guard(device);
    Queue* const own = &queue_of(handle_);
    own->run_to(own->asked);
    run_all();  // what others wait for in it
    queues.erase(own);
    delete own;
}
Status Stream::open() {
    std::lock_guard<std::recursive_mutex> guard(device);
    handle_ = new (std::nothrow) Queue();
    if (!handle_) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "no memory for a stream");
    queues.insert(&queue_of(handle_));
    return {};
}
Status Stream::wait() {
    std::lock_guard<std::recursive_mutex> guard(device);
    Queue& own = queue_of(handle_);
    own.run_to(own.asked);
    TMOE_RETURN_IF_ERROR(std::exchange(own.failure, Status()));
    return check_fault(own.device);
}
Status Stream::to_device(void* to, const void* from, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(device);
    device_counters().copies++;
    TMOE_RETURN_IF_ERROR(check_place(handle_, to, bytes));
    if (!lateness() || is_pinned(from)) return copy(handle_, to, from, bytes);
    const auto* data = static_cast<const uint8_t*>(from);
    return ask(handle_, [to, held = std::vector<uint8_t>(data, data + bytes)]() -> Status {
        if (!held.empty()) memcpy(to, held.data(), held.size());
        return {};
    });
}
Status Stream::to_host(void* to, const void* from, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(device);
    device_counters().copies++;
    TMOE_RETURN_IF_ERROR(check_place(handle_, from, bytes));
    return copy(handle_, to, from, bytes);
}
Status Stream::on_device(void* to, const void* from, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(device);
    TMOE_RETURN_IF_ERROR(check_place(handle_, from, bytes));
    TMOE_RETURN_IF_ERROR(check_place(handle_, to, bytes));
    return copy(handle_, to, from, bytes);
}
Status Stream::fill(void* to, uint8_t value, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(device);
    TMOE_RETURN_IF_ERROR(check_place(handle_, to, bytes));
    return ask(handle_, [=]() -> Status {
        if (bytes) memset(to, value, bytes);
        return {};
    });
}
Status Stream::after(Stream& other) {
    std::lock_guard<std::recursive_mutex> guard(device);
    Queue* const first = &queue_of(other.handle_);
    return ask(handle_, [first, count = first->asked]() -> Status {
        first->run_to(count);
        return {};
    });
}

Status DeviceMemory::take(size_t bytes, uint8_t*& out) {
    uint64_t left = 0;
    TMOE_RETURN_IF_ERROR(free_memory(current, left));
    out = bytes <= left ? allocate(bytes) : nullptr;
    if (!out) {
        return Status(StatusCode::GPU_VRAM_EXHAUSTED, format("%zu bytes of GPU memory are needed, %llu are free", bytes, static_cast<unsigned long long>(left)))
            .with("required", static_cast<double>(bytes))
            .with("available", static_cast<double>(left))
            .with("device", current);
    }
    memset(out, 0xa5, bytes);  // undefined, as on a device
    std::lock_guard<std::recursive_mutex> guard(device);
    places[out] = current;
    return {};
}

void DeviceMemory::give(uint8_t* block) {
    std::lock_guard<std::recursive_mutex> guard(device);
    run_all();
    places.erase(block);
    release(block);
}

Status PinnedMemory::take(size_t bytes, uint8_t*& out) {
    out = allocate(bytes);
    if (!out) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("%zu bytes of pinned memory are not to be had", bytes)).with("required", static_cast<double>(bytes));
    std::lock_guard<std::recursive_mutex> guard(device);
    pinned[out] = bytes;
    return {};
}

void PinnedMemory::give(uint8_t* block) {
    std::lock_guard<std::recursive_mutex> guard(device);
    pinned.erase(block);
    release(block);
}

Status emulate(const char* name, Stream& stream, Grid grid, unsigned threads, size_t shared_bytes, std::function<void()> body) {
    std::lock_guard<std::recursive_mutex> guard(device);
    device_counters().launches++;
    const int own = queue_of(stream.handle()).device;
    if (own != current) return faulty(own, format("%s: a thread of device %d launches on a stream of device %d", name, current, own));
    return ask(stream.handle(), [=]() -> Status {
        const host::Index blocks = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z)};
        std::function<void()> thread = body;
        const char* fault = host::run(blocks, threads, shared_bytes, [](void* own) { (*static_cast<std::function<void()>*>(own))(); }, &thread);
        if (!fault) return {};
        return Status(StatusCode::CUDA_DEVICE_FAILED, format("%s: %s", name, fault)).with("device", own).with("detail", fault);
    });
}

}  // namespace cuda
}  // namespace tmoe
