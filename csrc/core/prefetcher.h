// Which experts the next layer will probably want, and whether reading them ahead pays. A prediction is the next layer's own route of this
// layer's residual state: early, before this layer's experts are added to it (there is time to read), and late, after (it is right more often).
// What counts is how often a predicted expert that is absent is then used: by layer, by early or late, and by its rank in the prediction.
// Of all bytes that are read, a fixed part may be for nothing: guesses are made as long as what they may cost is within it.
#pragma once
#include <mutex>
#include <vector>

#include "core/model.h"
#include "core/store/expert_store.h"

namespace tmoe {

class Prefetcher {
  public:
    enum class When : uint32_t { Early, Late };
    static constexpr uint32_t kLeastPerCent = 50;   ///< of guesses of a kind have to come true
    static constexpr size_t kMostTokens = 8;   ///< larger steps want most experts anyway, and hide reads behind more work

    struct Layer {
        uint64_t wanted = 0;      ///< (step, expert) demands that a prediction was made for
        uint64_t predicted = 0;   ///< of these: in the prediction
        uint64_t present = 0;     ///< of these: resident or in flight when demanded
        uint64_t asked = 0;       ///< experts that were asked for ahead
        bool active = false;      ///< reads ahead for this layer now
    };

    Prefetcher(PrefetchMode mode, const RoutingShape& shape);
    /** Memory for the predictions of kMostTokens tokens; `rows`: of all routers of a layer. RESOURCE_MEMORY_EXHAUSTED. */
    Status reserve(size_t width, size_t rows);
    /** Most that `reserve` takes for a model of this plan. */
    static uint64_t bytes(const Plan& plan);

    void begin_step(size_t tokens, const StoreCounts& counts, size_t expert_bytes);
    /** Whether a prediction for the layer is to be made in this step: where it pays, and on trial now and then where it did not. */
    bool wanted(size_t layer) const;
    /** A prediction [tokens][k], best first: appends what is to be read ahead, most probable first. */
    void predict(size_t layer, When when, const int32_t* ids, const ExpertStore& store, std::vector<uint32_t>& ahead);
    /** The experts that the layer really wants, ascending, before they are demanded. */
    void observe(size_t layer, const std::vector<uint32_t>& experts, const ExpertStore& store);

    PrefetchMode mode() const { return mode_; }
    /** Any thread. */
    std::vector<Layer> layers() const;

    // Scratch of a prediction, [kMostTokens][…].
    Buffer states, ids, weights, scores, states24, probabilities;

  private:
    /** How often something happened of late: halved when it has been counted often, so that it follows what changes. */
    struct Odds {
        uint32_t used = 3, of = 4;   // a good guess to start with
        void count(bool hit) {
            used += hit;
            if (++of < 128) return;
            used /= 2;
            of /= 2;
        }
    };
    struct Guess {
        uint32_t expert, rank;
        When when;
    };
    Odds& odds(size_t layer, When when, size_t rank) { return odds_[(layer * 2 + static_cast<size_t>(when)) * shape_.k + rank]; }
    const Odds& odds(size_t layer, When when, size_t rank) const { return const_cast<Prefetcher*>(this)->odds(layer, when, rank); }
    static bool pays(const Odds& odds) { return odds.used * 100 >= odds.of * kLeastPerCent; }
    bool pays(size_t layer) const;

    PrefetchMode mode_;
    RoutingShape shape_;
    size_t tokens_ = 0;
    uint64_t step_ = 0;
    double credit_ = 0, seen_all_ = 0, seen_unused_ = 0;   ///< experts that may be read for nothing; bytes as of the last step
    double allowance_ = 0;                   ///< what is left of the credit in this step
    std::vector<Odds> odds_;                 ///< [layers][early, late][k]
    std::vector<std::vector<Guess>> guesses_;  ///< per layer: of this step
    std::vector<uint8_t> in_guess_;          ///< [layers][experts]: predicted in this step, absent or not
    std::vector<uint8_t> made_;              ///< per layer: there is a prediction of this step
    mutable std::mutex mutex_;
    std::vector<Layer> layers_;
};

}  // namespace tmoe
