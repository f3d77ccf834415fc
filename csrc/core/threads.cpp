#include "core/threads.h"

#include <cfenv>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if defined(__linux__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tmoe {

namespace {

constexpr int kSpins = 4000;      // pauses before a waiting thread gives its core away
constexpr int kYield = 64;        // pauses after which it lets others run
constexpr uint64_t kField = 32;   // bits of the item and of the count in a ticket
constexpr uint64_t kMask = (uint64_t{1} << kField) - 1;

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

Status thread_refused() {
    return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "the system refused to start a thread");
}

}  // namespace

// std::thread reports failure by an exception, which this build does not have.
Status start_thread(std::function<void()> body) {
    auto* owned = new (std::nothrow) std::function<void()>(std::move(body));
    if (!owned) return thread_refused();
#if defined(__linux__) || defined(__APPLE__)
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) {
        delete owned;
        return thread_refused();
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, size_t{4} << 20);
    pthread_t thread;
    const int failed = pthread_create(
        &thread, &attributes,
        [](void* raw) -> void* {
            std::unique_ptr<std::function<void()>> mine(static_cast<std::function<void()>*>(raw));
            fesetenv(FE_DFL_ENV);  // the host may run with denormals flushed; results must not depend on it
            (*mine)();
            return nullptr;
        },
        owned);
    pthread_attr_destroy(&attributes);
    if (failed != 0) {
        delete owned;
        return thread_refused();
    }
#else
    std::thread([owned] {
        std::unique_ptr<std::function<void()>> mine(owned);
        fesetenv(FE_DFL_ENV);
        (*mine)();
    }).detach();
#endif
    return {};
}

void ask_for_short_turns() {
#if defined(__linux__) && defined(SYS_sched_getattr) && defined(SYS_sched_setattr)
    struct {  // the first form of the kernel's sched_attr
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attributes = {};
    constexpr uint64_t kTurn = 100'000;  // nanoseconds, the least; SCHED_OTHER takes it from Linux 6.12 on, older ones ignore it
    if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0 || attributes.policy != SCHED_OTHER) return;
    attributes.runtime = kTurn;
    (void)syscall(SYS_sched_setattr, 0, &attributes, 0);
#endif
}

// A ticket holds count | next item in one word, so that a late thread can tell a valid claim from one past the end.
struct ThreadPool::State {
    std::atomic<uint64_t> ticket{0};
    std::atomic<uint64_t> done{0};
    ItemFn fn = nullptr;
    void* context = nullptr;
    const std::atomic<bool>* cancel = nullptr;
    std::atomic<bool> burst{false}, stop{false};
    std::atomic<int> sleepers{0};
    std::mutex mutex;
    std::condition_variable wake;
    std::unique_ptr<NextReads[]> next_reads;   ///< of each thread

    static bool has_work(uint64_t ticket) { return (ticket & kMask) < (ticket >> kField); }

    bool take_one(size_t worker) {
        if (!has_work(ticket.load(std::memory_order_acquire))) return false;
        const uint64_t mine = ticket.fetch_add(1, std::memory_order_acq_rel);
        if (!has_work(mine)) return false;
        if (!cancel || !cancel->load(std::memory_order_relaxed)) fn(context, mine & kMask, worker);
        done.fetch_add(1, std::memory_order_release);
        return true;
    }

    void work(size_t worker) {
        int idle = 0;
        while (!stop.load(std::memory_order_relaxed)) {
            if (take_one(worker)) {
                idle = 0;
                continue;
            }
            if (burst.load(std::memory_order_relaxed) && next_reads[worker].ask()) continue;
            pause();
            if (++idle < kSpins) {
                if (idle % kYield == 0 && !burst.load(std::memory_order_relaxed)) std::this_thread::yield();
                continue;
            }
            idle = 0;
            if (burst.load(std::memory_order_relaxed)) {
                std::this_thread::yield();
                continue;
            }
            std::unique_lock<std::mutex> lock(mutex);
            sleepers++;
            wake.wait(lock, [&] { return stop || burst || has_work(ticket.load()); });  // in one order with `sleepers`
            sleepers--;
        }
    }

    void wake_all() {
        if (sleepers.load() == 0) return;
        { std::lock_guard<std::mutex> lock(mutex); }
        wake.notify_all();
    }
};

ThreadPool::ThreadPool() : state_(std::make_shared<State>()) {}

ThreadPool::~ThreadPool() {
    state_->stop = true;
    { std::lock_guard<std::mutex> lock(state_->mutex); }
    state_->wake.notify_all();
}

Status ThreadPool::start(size_t threads) {
    if (threads > 1) {
        state_->next_reads.reset(new (std::nothrow) NextReads[threads]);
        if (!state_->next_reads) return thread_refused();
        next_reads_ = state_->next_reads.get();
    }
    for (size_t worker = 1; worker < threads; worker++) {
        TMOE_RETURN_IF_ERROR(start_thread([state = state_, worker] { state->work(worker); }));
        threads_ = worker + 1;
    }
    return {};
}

bool ThreadPool::run(size_t count, const std::atomic<bool>* cancel, ItemFn fn, void* context) {
    const auto cancelled = [&] { return cancel && cancel->load(std::memory_order_relaxed); };
    if (threads_ == 1 || count <= 1) {
        for (size_t item = 0; item < count; item++) {
            if (cancelled()) return false;
            fn(context, item, 0);
        }
        return !cancelled();
    }
    State& state = *state_;
    for (size_t first = 0; first < count; first += kMask / 2) {  // a ticket has room for 2^31 items and an overshoot per thread
        const uint64_t part = count - first < kMask / 2 ? count - first : kMask / 2;
        struct Shifted {
            ItemFn fn;
            void* context;
            size_t first;
        } shifted{fn, context, first};
        state.fn = [](void* raw, size_t item, size_t worker) {
            const Shifted& s = *static_cast<Shifted*>(raw);
            s.fn(s.context, s.first + item, worker);
        };
        state.context = &shifted;
        state.cancel = cancel;
        state.done.store(0, std::memory_order_relaxed);
        state.ticket.store(part << kField, std::memory_order_seq_cst);
        state.wake_all();
        while (state.take_one(0)) {
        }
        for (int spins = 0; state.done.load(std::memory_order_acquire) < part; spins++) {
            if (next_reads_[0].ask()) continue;
            pause();
            if (spins >= kSpins) {
                std::this_thread::yield();
                spins = 0;
            }
        }
    }
    return !cancelled();
}

void ThreadPool::begin_burst() {
    state_->burst = true;
    state_->wake_all();
}

void ThreadPool::end_burst() { state_->burst = false; }

struct JobQueue::State {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<std::function<void()>> jobs;
    bool closed = false;
    std::atomic<bool> news{false};   // there is a job, or it is closed

    void work() {
        for (;;) {
            std::function<void()> job;
            // The next step of a sequence comes soon after the one before; to fall asleep and be woken takes longer than that.
            for (int spins = 1; spins < kSpins && !news.load(std::memory_order_relaxed); spins++) {
                pause();
                if (spins % kYield == 0) std::this_thread::yield();
            }
            {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return closed || !jobs.empty(); });
                if (jobs.empty()) return;
                job = std::move(jobs.front());
                jobs.pop_front();
                news = closed || !jobs.empty();
            }
            job();
        }
    }
};

Status JobQueue::start() {
    auto state = std::make_shared<State>();
    TMOE_RETURN_IF_ERROR(start_thread([state] { state->work(); }));
    state_ = std::move(state);
    return {};
}

bool JobQueue::submit(std::function<void()> job) {
    if (!state_) return false;
    {
        std::lock_guard<std::mutex> lock(state_->mutex);
        if (state_->closed) return false;
        state_->jobs.push_back(std::move(job));
        state_->news = true;
    }
    state_->wake.notify_one();
    return true;
}

void JobQueue::close() {
    if (!state_) return;
    {
        std::lock_guard<std::mutex> lock(state_->mutex);
        state_->closed = true;
        state_->news = true;
    }
    state_->wake.notify_one();
}

}  // namespace tmoe
