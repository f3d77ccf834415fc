// What store_check.cpp checks of the prefetcher: what it asks for depends on the steps alone, and its memory is what a plan is told.
#pragma once
#include "core/prefetcher.h"
#include "store_use.h"

namespace tmoe {

/** A route of one token by scores: its k best experts. */
struct ScoredRoute {
    std::vector<float> scores;
    std::vector<int32_t> ids;
    size_t k;

    ScoredRoute(std::vector<float> given, size_t active) : scores(std::move(given)), ids(scores.size()), k(active) {
        for (size_t e = 0; e < ids.size(); e++) ids[e] = static_cast<int32_t>(e);
        std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)]; });
    }
    Expected chosen() const {
        Expected experts(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(k));
        std::sort(experts.begin(), experts.end());
        return experts;
    }
};

/** What the prefetcher asks for in a run of steps whose routes are foretold badly at times, with reads that take their time. */
inline std::vector<uint32_t> asked_for(const Experts& files, uint32_t most_microseconds, uint64_t delays, size_t threads) {
    constexpr size_t kActive = 2;
    const auto held = std::make_shared<Held>(blobs_of(files), most_microseconds, delays);
    const auto store = open_store(files, held, 7, threads);
    const RoutingShape shape = {files.layers, files.experts, kActive};
    Prefetcher prefetcher(PrefetchMode::Auto, shape);
    CHECK_OK(prefetcher.reserve(64, files.experts));
    std::vector<uint32_t> asked;
    Random random{5};
    for (uint32_t step = 0; step < 120; step++) {
        prefetcher.begin_step(1, store->counts(), files.layout.bytes);
        store->begin_step();
        std::vector<std::vector<float>> scores(files.layers, std::vector<float>(files.experts));
        for (auto& layer : scores)
            for (float& score : layer) score = static_cast<float>(random.below(1000));
        const auto foretell = [&](size_t layer, size_t lead) {
            std::vector<float> guessed = scores[layer];
            for (float& score : guessed) score += static_cast<float>(random.below(static_cast<uint32_t>(lead) * (step % 30 < 20 ? 60 : 400)));
            std::vector<uint32_t> ahead;
            const ScoredRoute route(guessed, kActive);
            // Every fourth step as where several routers' scores are not to be compared.
            prefetcher.predict(layer, lead, {step % 4 ? route.scores.data() : nullptr, route.ids.data(), nullptr}, *store, ahead);
            store->prefetch(static_cast<uint32_t>(layer), ahead);
            asked.push_back(UINT32_MAX);
            asked.insert(asked.end(), ahead.begin(), ahead.end());
        };
        for (size_t layer = 0; layer < files.layers; layer++) {
            foretell(layer, 1);
            if (layer + 1 < files.layers) foretell(layer + 1, 2);
            const ScoredRoute route(scores[layer], kActive);
            prefetcher.observe(layer, route.chosen(), *store);
            CHECK_OK(use(*store, files, static_cast<uint32_t>(layer), route.chosen()));
        }
    }
    return asked;
}

inline void guesses(const Experts& files) {
    const std::vector<uint32_t> asked = asked_for(files, 0, 1, 4);
    for (uint64_t delays : {1, 2, 3}) CHECK(asked_for(files, 2000, delays, delays) == asked);
}

/** What `bytes` says of a plan is what `reserve` takes, but for the rounding up of its blocks. */
inline void predictions(const Experts&) {
    Plan plan;
    for (uint32_t layer = 0; layer < 5; layer++) {
        plan.buffer_widths.push_back(1024);
        plan.tensors.push_back({"router", TensorRole::Router, {1024, 24}});
        PlanOp op;
        op.kind = OpKind::Route;
        op.in = op.weight = layer;
        op.k = 6;
        plan.ops.push_back(op);
    }
    Prefetcher prefetcher(PrefetchMode::Auto, {5, 24, 6});
    const int64_t before = counters().live_bytes;
    CHECK_OK(prefetcher.reserve(1024, 24));
    const int64_t taken = counters().live_bytes - before, told = static_cast<int64_t>(Prefetcher::bytes(plan));
    CHECK(taken <= told && told - taken <= 8 * 64);
}

}  // namespace tmoe
