// Threads that read experts into their slots: demand strictly before prefetch, the pieces of one expert on several threads.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "core/store/expert_source.h"
#include "core/store/expert_store.h"

namespace tmoe {

/** The read of one expert. The queue's mutex guards what is not atomic, from `submit` on. */
struct Load {
    uint32_t layer = 0, expert = 0, slot = 0;
    uint8_t* blob = nullptr;
    std::atomic<Residency>* residency = nullptr;  ///< Loading until the end, then Resident or Unavailable; untouched after `drop`
    bool demand = false;                          ///< waited for: a step's, or part of a preload
    size_t pieces = 0, next = 0, active = 0, done = 0;
    bool dropped = false;
    std::vector<uint32_t> sums;                   ///< of the pieces that are there
    uint32_t sum = 0;                             ///< of the whole, where Shared::checked takes one
    std::atomic<bool> stop{false};                ///< dropped, or another piece has failed
    Status error;                                 ///< why it is Unavailable; read it after that
};

/**
 * All but the threads' own work is called on one thread. The threads and what they read into live in the shared state, so that nothing
 * is freed under a read and the destructor waits for none.
 */
class IoQueue {
  public:
    /** What the threads use as long as one of them lives. */
    struct Shared {
        std::shared_ptr<ExpertSource> source;
        std::atomic<uint64_t> ended{0};           ///< loads that have reached their end
        std::atomic<uint64_t> errors{0};          ///< reads and checks that failed, first attempts too
        virtual ~Shared() = default;
        /** Every piece is there and was found to be right; outside of the mutex: the load may have been dropped. */
        virtual void checked(Load& load) = 0;
        /** A load is Resident from now on; under the mutex. */
        virtual void arrived(const Load& load) = 0;

      private:
        friend class IoQueue;
        std::mutex mutex;
        std::condition_variable work, end;
        std::deque<std::shared_ptr<Load>> demand, prefetch;
        std::vector<uint32_t> stale;              ///< per slot: reads of dropped loads that have not ended
        size_t ahead = 0, most_ahead = 1;         ///< reads of prefetches now, and at most: a demand finds a free thread
        size_t demanded = 0;                      ///< reads of demands now
        bool stop = false;
    };

    ~IoQueue();
    /** RESOURCE_MEMORY_EXHAUSTED when the system refuses a thread. */
    Status start(std::shared_ptr<Shared> shared, size_t threads, size_t slots);

    /** Ends the threads and waits for the reads under way, some seconds at most: a disk may hang. Nothing is read afterwards. */
    void close();
    /** Takes loads in this order; each has its slot to itself but for reads of dropped loads, which it waits for. */
    void submit(const std::vector<std::shared_ptr<Load>>& loads);
    /** A load of the prefetch queue is wanted now. */
    void promote(const std::shared_ptr<Load>& load);
    /** The slot is another's now: what has not started is not read any more. True where nothing had started. */
    bool drop(const std::shared_ptr<Load>& load);
    /** Drops the load where nothing of it has started, and says so; else leaves it. */
    bool drop_unstarted(const std::shared_ptr<Load>& load);
    /** Waits until no read of a dropped load goes into the slot. */
    void wait_for_slot(size_t slot);
    /** Waits until `ended` is not `seen` any more, at most so long. */
    void wait_for_end(uint64_t seen, std::chrono::microseconds longest);

  private:
    struct Piece {
        std::shared_ptr<Load> load;
        size_t index = 0;
        bool ahead = false;                       ///< it counts among the reads of prefetches
    };
    void stop();
    static void run(const std::shared_ptr<Shared>& shared);
    static bool take(Shared& shared, Piece& piece);
    static void finish(Shared& shared, std::unique_lock<std::mutex>& lock, const std::shared_ptr<Load>& load, Status status);

    /** How many threads are left; it outlives both sides. */
    struct Threads {
        std::mutex mutex;
        std::condition_variable end;
        size_t running = 0;
    };

    std::shared_ptr<Shared> shared_;
    std::shared_ptr<Threads> threads_ = std::make_shared<Threads>();
};

}  // namespace tmoe
