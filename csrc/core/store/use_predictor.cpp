#include "core/store/use_predictor.h"

#include <algorithm>
#include <cmath>

namespace tmoe {

namespace {

constexpr double kKept = 0.999;   ///< of what was learned, at each turn

}  // namespace

void MixLearner::fade() {
    for (size_t i = 0; i < kMixTerms; i++) {
        for (size_t j = 0; j <= i; j++) products_[i][j] *= kKept;
        uses_[i] *= kKept;
    }
}

void MixLearner::add(const MixTerms& terms, bool used) {
    for (size_t i = 0; i < kMixTerms; i++)
        for (size_t j = 0; j <= i; j++) products_[i][j] += terms[i] * terms[j];
    if (!used) return;
    for (size_t i = 0; i < kMixTerms; i++) uses_[i] += terms[i];
}

void MixLearner::add(const MixLearner& other) {
    for (size_t i = 0; i < kMixTerms; i++) {
        for (size_t j = 0; j <= i; j++) products_[i][j] += other.products_[i][j];
        uses_[i] += other.uses_[i];
    }
}

/** (products + ridge · I) · weights = uses + ridge · prior, by Cholesky's decomposition. */
MixTerms MixLearner::solve(double ridge, const MixTerms& prior) const {
    double l[kMixTerms][kMixTerms];
    MixTerms x;
    for (size_t i = 0; i < kMixTerms; i++) {
        for (size_t j = 0; j <= i; j++) {
            double sum = products_[i][j] + (i == j ? ridge : 0);
            for (size_t k = 0; k < j; k++) sum -= l[i][k] * l[j][k];
            l[i][j] = i == j ? std::sqrt(std::max(sum, 1e-9)) : sum / l[j][j];
        }
    }
    for (size_t i = 0; i < kMixTerms; i++) {
        double sum = uses_[i] + ridge * prior[i];
        for (size_t k = 0; k < i; k++) sum -= l[i][k] * x[k];
        x[i] = sum / l[i][i];
    }
    for (size_t i = kMixTerms; i-- > 0;) {
        double sum = x[i];
        for (size_t k = i + 1; k < kMixTerms; k++) sum -= l[k][i] * x[k];
        x[i] = sum / l[i][i];
    }
    return x;
}

MixTerms UseRates::steps(uint64_t turn) {
    MixTerms steps = {};
    const double mean = 1.0 / (static_cast<double>(turn) + 1.0);
    for (size_t m = 0; m < kMixSpans; m++) steps[m] = std::max(1.0 / static_cast<double>(1u << kMixShifts[m]), mean);
    return steps;
}

void UseRates::age(const MixTerms& steps) {
    for (size_t m = 0; m < kMixSpans; m++) terms_[m] -= terms_[m] * steps[m];
}

void UseRates::use(const MixTerms& steps) {
    for (size_t m = 0; m < kMixSpans; m++) terms_[m] += steps[m];
}

}  // namespace tmoe
