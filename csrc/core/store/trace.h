// A trace: what was asked of the expert cache, step by step. docs/traces.md describes it and the file that keeps it.
//
// It is a list of records of 32-bit words: one head, kind + 256 · (number of words that follow), and those words.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <vector>

#include "core/status.h"
#include "core/store/expert_cache.h"

namespace tmoe {

enum class TraceKind : uint32_t {
    Step = 1,       ///< sequences, rows (tokens), rows of sequences with more than one token: a step begins
    Layer = 2,      ///< layer, then the entries that it wants, ascending
    Prefetch = 3,   ///< parts of the layer that were computed before (kTraceAfterLayer: all of it), then entries, most wanted first
    Pin = 4,        ///< entry, 1 or 0
    Demote = 5,     ///< entry, 1 or 0
    Resize = 6,     ///< slots
    Drop = 7,       ///< entry: its bytes did not arrive
    Version = 8     ///< layer, expert: one more entry
};
inline constexpr uint32_t kTraceAfterLayer = UINT32_MAX;

/** One record in place. */
struct TraceItem {
    uint32_t kind = 0;
    const uint32_t* words = nullptr;
    size_t count = 0;
};

/** A view of a trace. */
struct Trace {
    size_t layers = 0, experts = 0;
    const uint32_t* words = nullptr;
    size_t count = 0;

    /** The record at `at`, which moves behind it. False at the end. */
    bool next(size_t& at, TraceItem& out) const;
};

/** VALIDATION_ERROR {argument, index}: a record that is cut off, has another length than its kind, or names no layer or entry of the trace. */
Status check_trace(const Trace& trace);

/** What a step is made of. */
struct StepShape {
    uint32_t sequences = 0;
    uint32_t rows = 0;           ///< tokens
    uint32_t prefill_rows = 0;   ///< tokens of sequences with more than one
};

/** Records of a live store. A step that begins beyond `most_words` is left out, and all that follows. One thread writes, any reads. */
class TraceLog {
  public:
    explicit TraceLog(size_t most_words) : most_(most_words) {}

    /** The cache that is recorded; set once, before anything is recorded. */
    CacheOptions cache;

    void step(const StepShape& shape);
    /** `first`, then `entries`. */
    void record(TraceKind kind, uint32_t first, const std::vector<uint32_t>& entries);
    void record(TraceKind kind, uint32_t first, uint32_t second) { add(kind, {first, second}, nullptr); }
    void record(TraceKind kind, uint32_t only) { add(kind, {only}, nullptr); }

    /** Everything so far. Between steps: whole ones. */
    std::vector<uint32_t> words() const;
    bool truncated() const;

  private:
    void add(TraceKind kind, std::initializer_list<uint32_t> first, const std::vector<uint32_t>* rest);

    const size_t most_;
    mutable std::mutex lock_;
    std::vector<uint32_t> words_;
    bool truncated_ = false;
};

}  // namespace tmoe
