// JavaScript objects that hold native ones. Each is type-tagged, so that a method called on a foreign object is a typed error.
#pragma once
#include <memory>

#include "core/memory.h"
#include "napi/args.h"
#include "napi/environment.h"
#include "napi/errors.h"

namespace tmoe {

/**
 * The native side of a wrapped object; the object's finalizer deletes it. A handle that can be closed counts as live until it is, and
 * tells V8 that it keeps bytes outside its heap.
 */
class Handle {
  public:
    Handle(napi_env env, ClassId id, bool counted) : id_(id), env_(env), live_(counted) {
        if (live_) counters().live_handles++;
    }
    virtual ~Handle() { retire(); }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;

    ClassId id() const { return id_; }

    /**
     * Sets the bytes that this object keeps outside V8's heap. V8 hears of a part: 64 MiB more than after its last full collection make it begin
     * another, and that stops the thread for tens of milliseconds beside busy cores. A prompt's cache alone would do that every time; a few forgotten
     * objects still do.
     */
    void report(int64_t bytes) {
        int64_t total = 0;
        bytes = bytes < kMostReported ? bytes : kMostReported;
        if (bytes != reported_) napi_adjust_external_memory(env_, bytes - reported_, &total);
        reported_ = bytes;
    }

  protected:
    /** The object is closed: it is no longer counted. Any number of calls. */
    void retire() {
        report(0);
        if (live_) counters().live_handles--;
        live_ = false;
    }

  private:
    static constexpr int64_t kMostReported = int64_t{8} << 20;

    ClassId id_;
    napi_env env_;
    bool live_;
    int64_t reported_ = 0;
};

/** One method or getter of a class. */
struct Member {
    const char* name;
    napi_callback method;
    napi_callback getter;
};

/** Defines the class of an id in this environment. */
napi_status define_class(Environment& environment, ClassId id, const Member* members, size_t count);

/** Makes the JavaScript object of a handle. */
Status wrap(Environment& environment, std::unique_ptr<Handle> handle, napi_value& out);

/** The handle inside `value`, or VALIDATION_ERROR {argument} where it is anything else. */
Status unwrap(Environment& environment, napi_value value, ClassId id, const char* argument, Handle*& out);

template <class T> Status unwrap(Environment& environment, napi_value value, const char* argument, T*& out) {
    Handle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(environment, value, T::kClass, argument, handle));
    out = static_cast<T*>(handle);
    return {};
}

}  // namespace tmoe
