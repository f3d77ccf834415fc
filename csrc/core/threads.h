// A pool of persistent threads. Work is split by output (rows, heads, experts), never inside a sum, so that the number of
// threads and the order in which they take items cannot change a bit of the result.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "core/next_reads.h"
#include "core/status.h"

namespace tmoe {

/** Runs `body` on a thread of its own, which nothing waits for. RESOURCE_MEMORY_EXHAUSTED when the system refuses. */
Status start_thread(std::function<void()> body);

/**
 * For a thread that waits for a device most of the time: it is to run as soon as it wakes, beside threads that compute all the time. It asks
 * the scheduler for short turns, which come sooner; its share of the time stays the same. Where the system knows no such wish nothing happens.
 */
void ask_for_short_turns();

/** What a piece of work needs to know of the thread that runs it. */
using ItemFn = void (*)(void* context, size_t item, size_t worker);

class ThreadPool {
  public:
    /** A pool without threads: everything runs on the caller (the synchronous kernel API). */
    ThreadPool();
    /** Threads end by themselves soon after; nothing waits for them. */
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    /** Starts threads - 1 workers; the caller of `for_each` is worker 0. RESOURCE_MEMORY_EXHAUSTED when the system refuses. */
    Status start(size_t threads);

    size_t threads() const { return threads_; }

    /**
     * Calls fn(item, worker) once for each item in [0, count), on all threads, and returns when all are done. Items are
     * taken one at a time in ascending order. Returns false, with the rest left out, once `cancel` is set.
     * One caller at a time.
     */
    template <class Fn> bool for_each(size_t count, const std::atomic<bool>* cancel, Fn&& fn) {
        return run(count, cancel, [](void* f, size_t item, size_t worker) { (*static_cast<Fn*>(f))(item, worker); },
                   const_cast<void*>(static_cast<const void*>(&fn)));
    }

    /** Between these two calls workers wait for work without sleeping (one step of the executor). */
    void begin_burst();
    void end_burst();

    /**
     * Within a burst, a thread that waits for the others asks memory for what it will probably read after that: `part(worker, n)` is the n-th
     * Span of a worker, one without bytes its last. A hint alone, until the next call.
     */
    template <class Fn> void expect(Fn part) {
        for (size_t worker = 0; threads_ > 1 && worker < threads_; worker++) {
            next_reads_[worker].set([&](size_t n) { return part(worker, n); });
        }
    }

  private:
    struct State;
    bool run(size_t count, const std::atomic<bool>* cancel, ItemFn fn, void* context);
    std::shared_ptr<State> state_;
    NextReads* next_reads_ = nullptr;   ///< of each thread, in `state_`
    size_t threads_ = 1;
};

/**
 * A thread with a queue: jobs run one after another, in order; it spins for a moment after each before it sleeps. Closing (also by destruction)
 * never waits: the current job and the queued ones still run, then the thread ends.
 */
class JobQueue {
  public:
    JobQueue() = default;
    ~JobQueue() { close(); }
    JobQueue(const JobQueue&) = delete;
    JobQueue& operator=(const JobQueue&) = delete;

    Status start();
    /** False after `close` or without `start`: the job was not taken. */
    bool submit(std::function<void()> job);
    void close();

  private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace tmoe
