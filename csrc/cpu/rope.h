// rope: rotary position embedding (RoFormer, 2021). Angles: position · base^(-2i / rotary_dim), scaled where a model was stretched
// (lib/kernels/rope-scaling.ts has the formulas), in double by the project's own polynomials; cosines and sines are rounded to float once; a pair (a, b) becomes (fma(a, cos, -(b sin)), fma(b, cos, a sin)).
#pragma once
#include <vector>

#include "cpu/kernels.h"

namespace tmoe {

enum class RopeKeep : uint32_t { None, Pair, Turns };

/** A frequency f becomes f · (share + (1 - share) / factor); share = most · clamp((v - none) / (all - none), 0, 1) of the pair's number or turns. */
struct RopeScaling {
    double factor = 1, magnitude = 1;   ///< magnitude: multiplies cosines and sines
    RopeKeep keep = RopeKeep::None;     ///< None: the share is 0
    double none = 0, all = 1, most = 0;
    double original_context = 0;        ///< of Turns: the positions that turns are counted over
    bool operator==(const RopeScaling& o) const {
        return factor == o.factor && magnitude == o.magnitude && keep == o.keep && none == o.none && all == o.all && most == o.most && original_context == o.original_context;
    }
};

/** The least divisor of a frequency: no angle of a 32-bit position is then beyond what sin_cos can bring back to a quarter turn. */
inline constexpr float kLeastRopeDivisor = 0x1p-30f;

/** Frequencies of one (base, rotary_dim, scaling). */
class RopeTable {
  public:
    RopeTable(double base, size_t rotary_dim, const RopeScaling& scaling = {});
    /** Divides each frequency, [rotary_dim / 2]; none is less than kLeastRopeDivisor. */
    void divide(const float* divisors);
    size_t rotary_dim() const { return frequency_.size() * 2; }
    /** cos and sin of position · frequency, [rotary_dim / 2] each. */
    void fill(uint64_t position, float* cos, float* sin) const;

  private:
    double magnitude_;
    std::vector<double> frequency_;
};

struct RopeArgs {
    float* x;                        ///< [tokens][heads][head_dim], rotated in place
    const uint32_t* positions;       ///< [tokens]
    size_t tokens, heads, head_dim;
    const RopeTable& table;          ///< rotary_dim even, at most head_dim
    RopePairs pairs;
};
/** CANCELLED; RESOURCE_MEMORY_EXHAUSTED. */
Status rope(const Context& context, const RopeArgs& args);
Status rope_ref(const RopeArgs& args);

}  // namespace tmoe
