// The one integer mix of the project: it orders what scores or worth leave equal, the same on every machine.
#pragma once
#include <cstdint>

#include "core/host_device.h"

namespace tmoe {

/** A 32-bit mix. Constants: `lowbias32` (C. Wellons), a public-domain fact. */
TMOE_HOST_DEVICE inline uint32_t mix32(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

/** Breaks ties of equal routing scores: a 32-bit mix of (seed, layer, position, index). */
TMOE_HOST_DEVICE inline uint32_t tie_hash(const uint32_t seed[4], uint32_t layer, uint32_t position, uint32_t index) {
    uint32_t h = 0x9e3779b9u;
    for (uint32_t word : {seed[0], seed[1], seed[2], seed[3], layer, position, index}) h = mix32(h ^ word) + 0x9e3779b9u;
    return h;
}

/** Breaks ties of equally worthy cache entries. */
inline uint32_t tie_hash(uint32_t seed, uint32_t entry) { return mix32(mix32(seed ^ 0x9e3779b9u) ^ entry); }

}  // namespace tmoe
