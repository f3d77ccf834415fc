// The device of a host build: heap memory, launches by the emulation. Copies and launches are done at once, or with TIERED_MOE_EMULATED_SEED
// (any number) as late as the streams' waits allow, or by chance before that, with threads and blocks in a shuffled order: what is read, written
// or freed without an order between the streams then shows. TIERED_MOE_EMULATED_MEMORY: the device's bytes.
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

uint8_t* take(size_t bytes) { return static_cast<uint8_t*>(::operator new(bytes ? bytes : 1, std::align_val_t{256}, std::nothrow)); }
void give(uint8_t* memory) { ::operator delete(memory, std::align_val_t{256}); }

uint64_t number_of(const char* variable, uint64_t otherwise) {
    const char* text = std::getenv(variable);
    return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

uint64_t device_memory() { return number_of("TIERED_MOE_EMULATED_MEMORY", uint64_t{1} << 34); }

/** Everything below is one thread's at a time, whatever streams it works on. */
std::recursive_mutex device;
std::map<const uint8_t*, size_t> pinned;   // what a copy reads when it runs; of other host memory, when it is asked for

/** A stream's work that has not run. */
struct Queue {
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

Status ask(void* handle, std::function<Status()> work) {
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
    if (ordinal != 0) return Status(StatusCode::CUDA_DEVICE_FAILED, format("there is no CUDA device %d; there are 1", ordinal)).with("device", ordinal).with("devices", 1);
    out = {};
    out.name = "host emulation";
    out.major = 8;
    out.memory_bytes = device_memory();
    out.emulated = true;
    if (const uint64_t* seed = lateness()) host::set_order(host::Order::Shuffled, *seed);
    return {};
}

Status free_memory(uint64_t& out) {
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
    return std::exchange(own.failure, Status());
}
Status Stream::to_device(void* to, const void* from, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(device);
    device_counters().copies++;
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
    return copy(handle_, to, from, bytes);
}
Status Stream::on_device(void* to, const void* from, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(device);
    return copy(handle_, to, from, bytes);
}
Status Stream::fill(void* to, uint8_t value, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(device);
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

Status DeviceBuffer::allocate(size_t bytes) {
    release();
    uint64_t left = 0;
    TMOE_RETURN_IF_ERROR(free_memory(left));
    data_ = bytes <= left ? take(bytes) : nullptr;
    if (!data_) {
        return Status(StatusCode::GPU_VRAM_EXHAUSTED, format("%zu bytes of GPU memory are needed, %llu are free", bytes, static_cast<unsigned long long>(left)))
            .with("required", static_cast<double>(bytes))
            .with("available", static_cast<double>(left))
            .with("device", 0);
    }
    memset(data_, 0xa5, bytes);  // undefined, as on a device
    size_ = bytes;
    device_counters().device_bytes += static_cast<int64_t>(bytes);
    device_counters().buffers++;
    return {};
}

void DeviceBuffer::release() {
    if (!data_) return;
    std::lock_guard<std::recursive_mutex> guard(device);
    run_all();
    give(data_);
    device_counters().device_bytes -= static_cast<int64_t>(size_);
    device_counters().buffers--;
    data_ = nullptr;
    size_ = 0;
}

Status PinnedBuffer::allocate(size_t bytes) {
    release();
    data_ = take(bytes);
    if (!data_) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("%zu bytes of pinned memory are not to be had", bytes)).with("required", static_cast<double>(bytes));
    size_ = bytes;
    std::lock_guard<std::recursive_mutex> guard(device);
    pinned[data_] = bytes;
    device_counters().pinned_bytes += static_cast<int64_t>(bytes);
    return {};
}

void PinnedBuffer::release() {
    if (!data_) return;
    std::lock_guard<std::recursive_mutex> guard(device);
    pinned.erase(data_);
    give(data_);
    device_counters().pinned_bytes -= static_cast<int64_t>(size_);
    data_ = nullptr;
    size_ = 0;
}

Status emulate(const char* name, Stream& stream, Grid grid, unsigned threads, size_t shared_bytes, std::function<void()> body) {
    std::lock_guard<std::recursive_mutex> guard(device);
    device_counters().launches++;
    return ask(stream.handle(), [=]() -> Status {
        const host::Index blocks = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z)};
        std::function<void()> thread = body;
        const char* fault = host::run(blocks, threads, shared_bytes, [](void* own) { (*static_cast<std::function<void()>*>(own))(); }, &thread);
        if (!fault) return {};
        return Status(StatusCode::CUDA_DEVICE_FAILED, format("%s: %s", name, fault)).with("device", 0).with("detail", fault);
    });
}

}  // namespace cuda
}  // namespace tmoe
