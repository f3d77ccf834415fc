// Work on a thread behind a promise. The thread sees native data only; whatever belongs to JavaScript stays with its environment and is
// reached by letters, so that an environment can end at any moment and nobody waits for anybody.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "core/status.h"
#include "core/threads.h"
#include "napi/environment.h"

namespace tmoe {

class Ticket;

/** One piece of work. Destroyed on either thread, so it holds nothing of JavaScript. */
class Task {
  public:
    virtual ~Task() = default;
    /** On the thread. */
    virtual Status run(const Ticket& ticket) = 0;
    /** On the thread, after `run`: gives back models, files and the like before the promise settles, so that counters are exact by then. */
    virtual void release() {}
    /** On the JavaScript thread when the work has ended, well or not, before `result`: bookkeeping of handles. */
    virtual void finished() {}
    /** On the JavaScript thread, after a `run` that succeeded: the promise's value. `kept` is the array of Keep::values, or null. */
    virtual Status result(Environment& environment, napi_value kept, napi_value& value) = 0;
    /** On the JavaScript thread, when a progress callback threw: the result is no longer wanted. */
    virtual void cancel() {}
};

/** JavaScript's side of a task under way. */
struct Pending {
    napi_deferred deferred = nullptr;
    std::shared_ptr<Task> task;
    napi_ref kept = nullptr;      ///< an array of the values that the task's memory belongs to
    napi_ref progress = nullptr;  ///< the progress callback
    napi_ref thrown = nullptr;    ///< what the callback threw

    /** Deletes the references. */
    void forget(napi_env env);
};

/** What a thread tells its environment. */
struct Letter {
    uint64_t id = 0;
    bool last = false;
    Status status;                                          ///< of the last letter
    std::function<napi_value(napi_env)> progress;           ///< makes the callback's argument
};

/** Letters from threads to one environment. Shared: it outlives the environment, and then drops what it is given. */
class Mailbox {
  public:
    static napi_status create(napi_env env, std::shared_ptr<Mailbox>& out);
    /** Any thread. */
    void post(Letter letter);
    /** JavaScript thread: the environment ends. */
    void close();
    /** JavaScript thread: the process stays alive while promises are under way. */
    void hold(napi_env env, bool alive);
    std::vector<Letter> take();

  private:
    std::mutex lock_;
    napi_threadsafe_function wake_ = nullptr;
    bool woken_ = false;
    std::vector<Letter> letters_;
};

/** The thread's end of a promise. Destroyed without `done`, it reports that itself: no promise is forgotten. */
class Ticket {
  public:
    Ticket(std::shared_ptr<Mailbox> mailbox, uint64_t id);
    ~Ticket();
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;

    void progress(std::function<napi_value(napi_env)> make) const;
    void done(Status status);

  private:
    std::shared_ptr<Mailbox> mailbox_;
    uint64_t id_;
    bool done_ = false;
};

/** What a task needs of JavaScript while it runs. */
struct Keep {
    std::vector<napi_value> values;   ///< referenced until the task has ended
    napi_value progress = nullptr;    ///< callback, may be null
};

/** Runs a task on a queue and makes its promise. */
Status start(Environment& environment, std::shared_ptr<Task> task, const Keep& keep, JobQueue& queue, napi_value& promise);

/** Runs a task on a thread of its own. RESOURCE_MEMORY_EXHAUSTED where the system has none. */
Status start(Environment& environment, std::shared_ptr<Task> task, const Keep& keep, napi_value& promise);

}  // namespace tmoe
