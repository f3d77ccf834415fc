// The total order of routes, the float of an exact score, and what is done to chosen weights: what all forms share.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/host_device.h"

namespace tmoe {

struct Candidate {
    int64_t score;
    uint32_t hash, index;
    TMOE_HOST_DEVICE bool operator<(const Candidate& other) const {  // better first
        if (score != other.score) return score > other.score;
        return hash != other.hash ? hash < other.hash : index < other.index;
    }
};

TMOE_HOST_DEVICE inline float logit_of(int64_t score, int exponent) { return static_cast<float>(std::ldexp(static_cast<double>(score), exponent)); }

/** Added to the sum that weights are divided by, as the models' code does: chosen weights that are all zero stay zero. */
inline constexpr float kLeastSum = 1e-20f;

inline void finish_weights(float* weights, size_t k, bool normalise, float scale) {
    if (normalise) {
        float sum = 0;
        for (size_t s = 0; s < k; s++) sum = sum + weights[s];
        sum = sum + kLeastSum;
        for (size_t s = 0; s < k; s++) weights[s] = weights[s] / sum;
    }
    for (size_t s = 0; s < k && scale != 1; s++) weights[s] = weights[s] * scale;
}

}  // namespace tmoe
