// rope: rotary position embedding (RoFormer, 2021). Angles: position · base^(-2i / rotary_dim), in double by the project's own
// polynomials, rounded to float once; a pair (a, b) becomes (fma(a, cos, -(b sin)), fma(b, cos, a sin)).
#pragma once
#include <vector>

#include "cpu/kernels.h"

namespace tmoe {

/** Frequencies of one (base, rotary_dim). */
class RopeTable {
  public:
    RopeTable(double base, size_t rotary_dim);
    double base() const { return base_; }
    size_t rotary_dim() const { return frequency_.size() * 2; }
    /** cos and sin of position · frequency, [rotary_dim / 2] each. */
    void fill(uint64_t position, float* cos, float* sin) const;

  private:
    double base_;
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
