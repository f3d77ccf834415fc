// What the addon keeps for one JavaScript environment (the main thread's or a worker's): nothing is shared between them but counters.
#pragma once
#include <memory>
#include <unordered_map>

#include "core/status.h"
#include "napi/setup.h"

namespace tmoe {

/** Classes of wrapped objects; each has a type tag and a constructor per environment. */
enum class ClassId : uint32_t { Gguf, Cancel, Backend, Model, Sequence, Reservation, ExpertReader, ExpertSlots, PreparedCall };
inline constexpr size_t kClasses = 9;
const char* class_name(ClassId id);

class Handle;
class Mailbox;
struct Pending;

/** Created when the addon is loaded into an environment, destroyed with it. JavaScript thread only. */
struct Environment {
    explicit Environment(napi_env owner);
    ~Environment();
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;

    /** The environment's own state; set before any function of the addon can be called. */
    static Environment& of(napi_env env);

    napi_env env;
    napi_ref make_error = nullptr;                 ///< the factory given to `initialize`
    napi_ref constructors[kClasses] = {};
    std::unique_ptr<Handle> constructing;          ///< what the constructor that runs now will wrap; empty when JavaScript calls it
    std::shared_ptr<Mailbox> mailbox;              ///< letters from worker threads
    std::unordered_map<uint64_t, Pending> pending; ///< promises under way
    uint64_t next_id = 1;
};

/** Creates the environment's state and its mailbox; called once by the addon's entry. */
napi_status attach_environment(napi_env env, Environment*& out);

/** Keeps this library loaded for ever: a detached thread may still run its code when the last environment is gone. */
void pin_library();

}  // namespace tmoe
