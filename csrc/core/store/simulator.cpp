#include "core/store/simulator.h"

#include "core/store/wave_schedule.h"

namespace tmoe {

namespace {

class Replay {
  public:
    Replay(ExpertCache& cache, const SimulationOptions& options, Simulation& out)
        : cache_(cache), options_(options), out_(out), schedule_(cache) {}

    void play(const TraceItem& item) {
        const uint32_t* w = item.words;
        const auto kind = static_cast<TraceKind>(item.kind);
        if (kind == TraceKind::Prefetch) return prefetch(item);
        finish_layer();
        switch (kind) {
            case TraceKind::Step: cache_.begin_step(); break;
            case TraceKind::Layer: begin_layer(item); break;
            case TraceKind::Pin: cache_.pin(w[0], w[1] != 0); break;
            case TraceKind::Demote: cache_.demote(w[0], w[1] != 0); break;
            case TraceKind::Resize: resize(w[0]); break;
            case TraceKind::Drop: cache_.drop(w[0]); break;
            case TraceKind::Version: cache_.add_entry(w[0], w[1]); break;
            default: break;
        }
    }

    void finish_layer() {
        while (schedule_.parts() > 0) advance();
        schedule_.abort();  // every slot was pinned
    }

  private:
    void begin_layer(const TraceItem& item) {
        wanted_.assign(item.words + 1, item.words + item.count);
        computed_ = 0;
        schedule_.begin(item.words[0], wanted_);
        for (size_t i = 0; i < schedule_.parts(); i++) note(schedule_.part(i));
    }

    void advance() {
        const size_t others = schedule_.parts() - 1;
        schedule_.advance();
        computed_++;
        if (schedule_.parts() > others) note(schedule_.part(others));
    }

    void prefetch(const TraceItem& item) {
        if (item.words[0] == kTraceAfterLayer) finish_layer();
        while (schedule_.parts() > 0 && computed_ < item.words[0]) advance();
        for (size_t i = 1; i < item.count; i++) {
            WaveItem admitted;
            if (cache_.prefetch(item.words[i], admitted)) note(DecisionKind::Prefetch, admitted.entry, admitted.slot, admitted.evicted);
        }
    }

    void resize(size_t slots) {
        if (options_.cache.slots != options_.recorded_slots) return;
        std::vector<uint32_t> evicted;
        cache_.resize(slots, evicted);
        for (uint32_t entry : evicted) note(DecisionKind::Resized, kNoEntry, kNoEntry, entry);
    }

    void note(const std::vector<WaveItem>& part) {
        for (const WaveItem& item : part) note(item.admitted ? DecisionKind::Miss : DecisionKind::Hit, item.entry, item.slot, item.evicted);
    }
    void note(DecisionKind kind, uint32_t entry, uint32_t slot, uint32_t evicted) {
        if (options_.decisions) out_.decisions.insert(out_.decisions.end(), {static_cast<uint32_t>(kind), entry, slot, evicted});
    }

    ExpertCache& cache_;
    const SimulationOptions& options_;
    Simulation& out_;
    WaveSchedule schedule_;
    std::vector<uint32_t> wanted_;
    uint32_t computed_ = 0;   ///< parts of the layer
};

}  // namespace

Status simulate(const Trace& trace, const SimulationOptions& options, Simulation& out) {
    std::unique_ptr<ExpertCache> cache;
    CacheOptions cache_options = options.cache;
    cache_options.layers = trace.layers;
    cache_options.experts = trace.experts;
    TMOE_RETURN_IF_ERROR(ExpertCache::create(cache_options, cache));
    TMOE_RETURN_IF_ERROR(check_trace(trace));
    out = {};
    out.layers.resize(trace.layers);
    if (options.policy == SimulatedPolicy::Arc) {
        simulate_arc(trace, cache_options.slots, out);
    } else if (options.policy == SimulatedPolicy::Optimum) {
        simulate_optimum(trace, cache_options.slots, out);
    } else {
        Replay replay(*cache, options, out);
        TraceItem item;
        for (size_t at = 0; trace.next(at, item);) replay.play(item);
        replay.finish_layer();
        out.counts = cache->counts();
        out.layers = cache->layer_counts();
    }
    return {};
}

}  // namespace tmoe
