// The native side of every class in lib/native.ts.
#pragma once
#include <atomic>
#include <memory>

#include "core/gguf.h"
#include "core/model.h"
#include "core/store/hot_experts.h"
#include "napi/handles.h"
#include "napi/kernel_calls.h"

namespace tmoe {

using CancelFlag = std::shared_ptr<std::atomic<bool>>;

struct GgufHandle : Handle {
    static constexpr ClassId kClass = ClassId::Gguf;
    GgufHandle(napi_env env, std::shared_ptr<GgufFile> opened) : Handle(env, kClass, true), file(std::move(opened)) {}
    void close() {
        file.reset();
        retire();
    }
    std::shared_ptr<GgufFile> file;  ///< null once closed
};

/** Not counted as live: it has nothing to close. */
struct CancelHandle : Handle {
    static constexpr ClassId kClass = ClassId::Cancel;
    explicit CancelHandle(napi_env env) : Handle(env, kClass, false), flag(std::make_shared<std::atomic<bool>>(false)) {}
    CancelFlag flag;
};

struct ReservationHandle : Handle {
    static constexpr ClassId kClass = ClassId::Reservation;
    ReservationHandle(napi_env env, std::unique_ptr<Reservation> granted) : Handle(env, kClass, true), reservation(std::move(granted)) {}
    void dispose() {
        reservation.reset();
        retire();
    }
    std::unique_ptr<Reservation> reservation;  ///< null once disposed
};

struct BackendHandle : Handle {
    static constexpr ClassId kClass = ClassId::Backend;
    BackendHandle(napi_env env, std::shared_ptr<Backend> started) : Handle(env, kClass, true), backend(std::move(started)) {}
    void dispose() {
        backend.reset();
        scratch.reset();
        retire();
    }
    std::shared_ptr<Backend> backend;  ///< null once disposed; models and jobs keep their own
    ThreadPool caller;                 ///< without threads: synchronous kernel calls run where they are made
    std::unique_ptr<KernelScratch> scratch;
};

/** A kernel call whose arguments were checked once. Not counted as live: it has nothing to close. */
struct PreparedCallHandle : Handle {
    static constexpr ClassId kClass = ClassId::PreparedCall;
    PreparedCallHandle(napi_env env, KernelWork checked, KernelArgs& args)
        : Handle(env, kClass, false), work(std::move(checked)), arrays(std::move(args.arrays)), copies(std::move(args.copies)) {}
    KernelWork work;
    std::vector<PreparedArray> arrays;
    std::shared_ptr<std::vector<Buffer>> copies;
};

struct ModelHandle : Handle {
    static constexpr ClassId kClass = ClassId::Model;
    ModelHandle(napi_env env, std::shared_ptr<Backend> runs_on, std::shared_ptr<Model> loaded)
        : Handle(env, kClass, true), backend(std::move(runs_on)), model(std::move(loaded)) {
        report(static_cast<int64_t>(model->weight_bytes() + model->arena_bytes()));
    }
    void dispose() {
        model.reset();
        backend.reset();
        retire();
    }
    std::shared_ptr<Backend> backend;
    std::shared_ptr<Model> model;  ///< null once disposed
};

struct SequenceHandle : Handle {
    static constexpr ClassId kClass = ClassId::Sequence;
    SequenceHandle(napi_env env, const std::shared_ptr<Backend>& runs_on, const std::shared_ptr<Model>& of, std::shared_ptr<Sequence> made)
        : Handle(env, kClass, true), backend(runs_on), model(of), sequence(std::move(made)) {}
    void dispose() {
        const std::shared_ptr<Backend> running = backend.lock();
        // To give memory of a device back waits for what the device does: behind the steps that were asked for, on their thread.
        if (running && running->device) (void)running->queue.submit([own = std::move(sequence)]() mutable { own.reset(); });
        sequence.reset();
        backend.reset();
        model.reset();
        retire();
    }
    /** Tells V8 what the cache holds now that nobody else has. Not while a step runs. */
    void report_pages() {
        if (!sequence) return;
        const size_t shared = sequence->prefix && !sequence->prefix->ended ? sequence->prefix->pages : 0;
        report(static_cast<int64_t>(((sequence->length.load() + kKvPage - 1) / kKvPage - shared) * sequence->page_bytes));
    }
    std::weak_ptr<Backend> backend;
    std::weak_ptr<Model> model;           ///< whose layout the cache has; weights go when the model is disposed, whatever sequences remain
    std::shared_ptr<Sequence> sequence;   ///< null once disposed
    size_t steps = 0;                     ///< under way with this sequence in them
};

/** Experts in host memory, on a queue of their own; what it has lent to JavaScript goes before the store moves on. */
struct ExpertReaderHandle : Handle {
    static constexpr ClassId kClass = ClassId::ExpertReader;
    ExpertReaderHandle(napi_env env, std::shared_ptr<ExpertStore> opened, RoutingShape layers, std::shared_ptr<JobQueue> runs_on)
        : Handle(env, kClass, true), store(std::move(opened)), shape(layers), queue(std::move(runs_on)), env_(env) {
        report(static_cast<int64_t>(store->counts().budget_bytes));
    }
    /** Another call begins: the blobs that JavaScript reads in place are empty from now on. */
    void take_back() {
        calls++;
        for (napi_ref lent : lent_) {
            napi_value buffer = nullptr;
            if (napi_get_reference_value(env_, lent, &buffer) == napi_ok && buffer) napi_detach_arraybuffer(env_, buffer);
            napi_delete_reference(env_, lent);
        }
        lent_.clear();
    }
    /** A blob as a buffer of JavaScript's over the store's memory, until `take_back`. */
    Status lend(napi_value self, const uint8_t* blob, size_t bytes, napi_value& out);
    void dispose() {
        take_back();
        store.reset();
        queue.reset();
        retire();
    }

    std::shared_ptr<ExpertStore> store;   ///< null once disposed
    RoutingShape shape;
    std::shared_ptr<JobQueue> queue;
    uint64_t calls = 0;
    uint32_t layer = 0;                   ///< being read

  private:
    napi_env env_;
    std::vector<napi_ref> lent_;
};

/** Decisions alone: nothing to close. */
struct ExpertSlotsHandle : Handle {
    static constexpr ClassId kClass = ClassId::ExpertSlots;
    ExpertSlotsHandle(napi_env env, std::unique_ptr<HotExperts> made) : Handle(env, kClass, false), experts(std::move(made)) {}
    std::unique_ptr<HotExperts> experts;
};

}  // namespace tmoe
