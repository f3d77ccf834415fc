// How probably each expert is used at its layer's next turn: a weighted sum of how often it was used lately, over several spans of time.
// Recency and frequency are the two ends of the spans. The weights of a layer are learned by least squares from the layer's own uses, and old
// lessons fade, so each layer has its own mix and the mix follows the traffic. What the layer's uses leave open, all layers' decide.
//
// Doubles with +, -, ·, / and sqrt only, in one order: the same bits on every machine (the project is built without contraction).
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tmoe {

/** Spans: rates of use that halve in about 0.7 · 2^shift uses of the layer; 0 = the last use alone. */
inline constexpr uint32_t kMixShifts[] = {0, 2, 4, 7, 10};
inline constexpr size_t kMixSpans = sizeof kMixShifts / sizeof *kMixShifts;
inline constexpr size_t kMixTerms = kMixSpans + 1;   ///< the last is a constant 1

using MixTerms = std::array<double, kMixTerms>;

/** What is learned first: the mean of the rates. */
inline constexpr MixTerms kMixStart = {1.0 / kMixSpans, 1.0 / kMixSpans, 1.0 / kMixSpans, 1.0 / kMixSpans, 1.0 / kMixSpans, 0};

/** Weights of one layer: recursive least squares that forgets. */
class MixLearner {
  public:
    /** Before a turn's first `add`. */
    void fade();
    /** One expert's terms before the turn, and whether it was used in it. */
    void add(const MixTerms& terms, bool used);
    void add(const MixLearner& other);
    /** The weights; a ridge of that strength draws them towards `prior` and keeps them solvable. */
    MixTerms solve(double ridge, const MixTerms& prior) const;

  private:
    double products_[kMixTerms][kMixTerms] = {};   ///< lower triangle: faded sums of terms[i] · terms[j]
    MixTerms uses_ = {};                           ///< faded sums of terms[i] where used
};

/** Rates of one expert. */
class UseRates {
  public:
    /** A turn of the layer begins: without a use in it, every rate falls. */
    void age(const MixTerms& steps);
    void use(const MixTerms& steps);
    const MixTerms& terms() const { return terms_; }

    /** How far a turn moves each rate: 2^-shift, or more in the first turns, where a rate is the plain mean. */
    static MixTerms steps(uint64_t turn);

  private:
    MixTerms terms_ = {0, 0, 0, 0, 0, 1};
};

inline double predict(const MixTerms& weights, const MixTerms& terms) {
    double sum = 0;
    for (size_t i = 0; i < kMixTerms; i++) sum += weights[i] * terms[i];
    return sum;
}

}  // namespace tmoe
