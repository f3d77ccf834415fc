#include "core/store/trace.h"

namespace tmoe {

bool Trace::next(size_t& at, TraceItem& out) const {
    if (at >= count) return false;
    out.kind = words[at] & 0xff;
    out.count = words[at] >> 8;
    out.words = words + at + 1;
    at += 1 + out.count;
    return true;
}

namespace {

/** Entries there are, with the layers of those beyond the first layers · experts. */
struct Entries {
    const Trace& trace;
    std::vector<uint32_t> added;

    size_t count() const { return trace.layers * trace.experts + added.size(); }
    bool in_layer(uint32_t entry, uint32_t layer) const {
        const size_t first = trace.layers * trace.experts;
        if (entry < first) return entry / trace.experts == layer;
        return entry < count() && added[entry - first] == layer;
    }
};

/** What is wrong with a record, or null. */
const char* fault(const TraceItem& item, Entries& entries) {
    const uint32_t* w = item.words;
    const size_t layers = entries.trace.layers, experts = entries.trace.experts;
    switch (static_cast<TraceKind>(item.kind)) {
        case TraceKind::Step: return item.count < 3 ? "a step has 3 words" : nullptr;
        case TraceKind::Layer:
            if (item.count < 1 || w[0] >= layers) return "there is no such layer";
            for (size_t i = 1; i < item.count; i++) {
                if (!entries.in_layer(w[i], w[0])) return "an entry is not of the layer";
                if (i > 1 && w[i] <= w[i - 1]) return "entries are not ascending";
            }
            return nullptr;
        case TraceKind::Prefetch:
            if (item.count < 1) return "a prefetch says when";
            for (size_t i = 1; i < item.count; i++)
                if (w[i] >= entries.count()) return "there is no such entry";
            return nullptr;
        case TraceKind::Pin:
        case TraceKind::Demote: return item.count != 2 || w[0] >= entries.count() || w[1] > 1 ? "an entry, and 1 or 0" : nullptr;
        case TraceKind::Resize: return item.count != 1 || w[0] == 0 ? "one number of slots" : nullptr;
        case TraceKind::Drop: return item.count != 1 || w[0] >= entries.count() ? "one entry" : nullptr;
        case TraceKind::Version:
            if (item.count != 2 || w[0] >= layers || w[1] >= experts) return "a layer and an expert of it";
            if (entries.count() >= kMaxCacheEntries) return "too many entries";
            entries.added.push_back(w[0]);
            return nullptr;
    }
    return nullptr;  // kinds of a later version are passed over
}

}  // namespace

Status check_trace(const Trace& trace) {
    Entries entries{trace, {}};
    for (size_t at = 0, next = 0; at < trace.count; at = next) {
        TraceItem item;
        trace.next(next, item);
        const char* wrong = next > trace.count ? "the record is cut off" : fault(item, entries);
        if (wrong) {
            return Status(StatusCode::VALIDATION_ERROR, format("trace: word %zu (record of kind %u): %s", at, static_cast<unsigned>(item.kind), wrong))
                .with("argument", "trace.words")
                .with("index", static_cast<double>(at));
        }
    }
    return {};
}

void TraceLog::step(const StepShape& shape) {
    {
        std::lock_guard<std::mutex> lock(lock_);
        if (words_.size() >= most_) truncated_ = true;
    }
    add(TraceKind::Step, {shape.sequences, shape.rows, shape.prefill_rows}, nullptr);
}

void TraceLog::record(TraceKind kind, uint32_t first, const std::vector<uint32_t>& entries) { add(kind, {first}, &entries); }

void TraceLog::add(TraceKind kind, std::initializer_list<uint32_t> first, const std::vector<uint32_t>* rest) {
    std::lock_guard<std::mutex> lock(lock_);
    if (truncated_) return;
    const size_t count = first.size() + (rest ? rest->size() : 0);
    words_.push_back(static_cast<uint32_t>(kind) | static_cast<uint32_t>(count << 8));
    words_.insert(words_.end(), first.begin(), first.end());
    if (rest) words_.insert(words_.end(), rest->begin(), rest->end());
}

std::vector<uint32_t> TraceLog::words() const {
    std::lock_guard<std::mutex> lock(lock_);
    return words_;
}

bool TraceLog::truncated() const {
    std::lock_guard<std::mutex> lock(lock_);
    return truncated_;
}

}  // namespace tmoe
