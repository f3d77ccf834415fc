// The total order of routes, and the float of an exact score: what the flat and the hierarchical form share.
#pragma once
#include <cmath>
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

}  // namespace tmoe
