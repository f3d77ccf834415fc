// Scores of experts that are good enough for a guess: from copies of the routers in half precision, half the bytes that exact scores read, and
// no integers of 64 bits. (8 bits a weight were no faster, and foretold less.) Nothing is routed by them.
#pragma once
#include <vector>

#include "core/model.h"
#include "cpu/kernels.h"
#include "cpu/route.h"

namespace tmoe {

class RouterCopies {
  public:
    /** Memory to score `tokens` tokens for so many layers at the same time. RESOURCE_MEMORY_EXHAUSTED. */
    Status reserve(size_t width, const RoutingShape& shape, size_t tokens, size_t at_once);
    /** Most that `reserve` and `copy` take for a model of this plan. */
    static uint64_t bytes(const Plan& plan, size_t tokens, size_t at_once);

    /** Of a layer that routes. RESOURCE_MEMORY_EXHAUSTED. */
    Status copy(size_t layer, const RouterView& router);
    bool has(size_t layer) const { return routers_[layer].size() > 0; }

    /** States [tokens][width] to be scored, and their scores [tokens][experts]; `at`: which of those at the same time. */
    float* states(size_t at) { return lookouts_[at].states.as<float>(); }
    const float* scores(size_t at) const { return lookouts_[at].scores.as<float>(); }
    /** One thread for each `at`. */
    void score(const Kernels& kernels, size_t layer, size_t at, size_t tokens);

  private:
    struct Lookout {
        Buffer states, scores;
    };
    std::vector<Lookout> lookouts_;
    std::vector<Buffer> routers_;   ///< per layer: packed (quant/repack.h)
    size_t width_ = 0, experts_ = 0;
};

}  // namespace tmoe
