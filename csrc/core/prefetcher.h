// Which experts the next layers will probably want, and whether reading them ahead pays. A prediction is a later layer's own route of the
// state that it will probably see: this layer's, and what the layers between have added to theirs of late, on average. From token to token a
// layer adds much the same: with it a random model of 16 layers has 94 % of the next layer's experts foretold and 92 % of the one's after
// that, without it 75 %.
// What counts is how often a predicted expert that is absent is then used: by layer, by how far ahead, and by how far its score is from
// those of experts that are not chosen. Of all bytes that are read, a fixed part may be for nothing: guesses are made as long as what they
// may cost is within it.
#pragma once
#include <mutex>
#include <vector>

#include "core/model.h"
#include "core/store/expert_store.h"

namespace tmoe {

class Prefetcher {
  public:
    static constexpr uint32_t kLeastPerCent = 50;   ///< of guesses of a kind have to come true
    static constexpr size_t kMostTokens = 8;   ///< larger steps want most experts anyway, and hide reads behind more work
    static constexpr size_t kMostLead = 2;     ///< layers that are looked ahead

    struct Layer {
        uint64_t wanted = 0;      ///< (step, expert) demands that a prediction was made for
        uint64_t predicted = 0;   ///< of these: in the prediction
        uint64_t present = 0;     ///< of these: resident or in flight when demanded
        uint64_t asked = 0;       ///< experts that were asked for ahead
        bool active = false;      ///< reads ahead for this layer now
    };

    Prefetcher(PrefetchMode mode, const RoutingShape& shape);
    /** Memory for states of `width` and predictions of kMostTokens tokens; `rows`: of all routers of a layer. RESOURCE_MEMORY_EXHAUSTED. */
    Status reserve(size_t width, size_t rows);
    /** Most that `reserve` takes for a model of this plan. */
    static uint64_t bytes(const Plan& plan);

    void begin_step(size_t tokens, const StoreCounts& counts, size_t expert_bytes);
    bool on() const { return mode_ != PrefetchMode::Off && tokens_ > 0 && tokens_ <= kMostTokens; }
    /** Whether a prediction for the layer is to be made in this step: where it pays, and on trial now and then where it did not. */
    bool wanted(size_t layer) const;
    /** The states [tokens][width] that come to the router of `layer` but for its norm, or, before layer 0, the embeddings: kEmbeddings. */
    void see(size_t layer, const float* states);
    static constexpr size_t kEmbeddings = SIZE_MAX;
    /** Fills `states` [tokens][width] with what will probably come to the router of a layer `lead` ones after those seen last, but for its norm. */
    void foresee(size_t lead, float* states) const;
    /** What was foreseen for a layer. */
    struct Foreseen {
        const float* scores;            ///< [tokens][experts]; null where several routers' scores have no common scale: the ids count then
        const int32_t* ids;             ///< [tokens][k], best first
        const uint8_t* const* masks;    ///< [tokens]: of RouteArgs; null = all enabled
    };
    /** Appends what is to be read ahead or kept, most probable first. */
    void predict(size_t layer, size_t lead, const Foreseen& foreseen, const ExpertStore& store, std::vector<uint32_t>& ahead);
    /** The experts that the layer really wants, ascending, before they are demanded. */
    void observe(size_t layer, const std::vector<uint32_t>& experts, const ExpertStore& store);

    PrefetchMode mode() const { return mode_; }
    /** Any thread. */
    std::vector<Layer> layers() const;

    // Scratch of a route that is foreseen, [kMostTokens][…].
    Buffer ids, weights, scores, states24, probabilities;

  private:
    static constexpr size_t kMarginBins = 9;

    /** How often something happened of late: halved when it has been counted often, so that it follows what changes. */
    struct Odds {
        uint32_t used, of = 4;
        void count(bool hit) {
            used += hit;
            if (++of < 128) return;
            used /= 2;
            of /= 2;
        }
        double missed() const { return 1 - static_cast<double>(used) / of; }
        bool counted() const { return of > 4; }
        bool pays() const { return used * 100 >= of * kLeastPerCent; }
    };
    struct Guess {
        uint32_t expert;
        Odds* odds;
    };
    struct Candidate {
        uint32_t expert;
        float margin;
    };
    static size_t bin_of(float margin);
    Odds* odds(size_t layer, size_t lead) { return odds_.data() + (layer * kMostLead + lead - 1) * kMarginBins; }
    bool pays(size_t layer) const;
    void add_ranks(const int32_t* ids);
    void add_margins(const float* scores, const uint8_t* mask);

    PrefetchMode mode_;
    RoutingShape shape_;
    size_t width_ = 0, tokens_ = 0;
    uint64_t step_ = 0;
    double credit_ = 0, seen_all_ = 0, seen_unused_ = 0;   ///< experts that may be read for nothing; bytes as of the last step
    double most_missed_ = 0;                 ///< guesses of a kind that fails more often are not read in this step: the less credit, the stricter
    size_t seen_ = 0;                        ///< layers whose states have been seen in this step
    Buffer last_;                            ///< [kMostTokens][width]: the states seen last
    Buffer moves_;                           ///< [layers][width]: what comes to a layer less what came to the one before, on average
    std::vector<uint32_t> moved_;            ///< per layer: how many steps its average has, kMoveSteps at most
    std::vector<Odds> odds_;                 ///< [layers][kMostLead][kMarginBins]
    std::vector<std::vector<Guess>> guesses_;  ///< per layer: of this step
    std::vector<uint8_t> in_guess_;          ///< [layers][experts]: in a prediction of this step, absent or not
    std::vector<uint8_t> asked_;             ///< [layers][experts]: asked for in this step
    std::vector<uint8_t> made_;              ///< per layer: there is a prediction of this step
    std::vector<float> margins_, order_;     ///< scratch, [experts]
    std::vector<Candidate> candidates_;
    mutable std::mutex mutex_;
    std::vector<Layer> layers_;
};

}  // namespace tmoe
