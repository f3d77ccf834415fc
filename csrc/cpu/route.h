// route: exact integer scores, the k best experts of each token in a seeded total order, and their float weights.
//
// Score of expert e = Σ x24[c] · w24[e][c], exact in 64 bits, where x24 and w24 are 24-bit integers with one power-of-two exponent
// per token and per matrix (Kernels::quantise_state). Order: score descending, tie_hash ascending, index ascending.
// Weights: logit = f32(f64(score) · 2^(ex + ew - 46)); softmax by lanes (math_simd.h) over the enabled experts (softmax_topk) or over
// the chosen ones in rank order (topk_softmax), or 1 / (1 + e^-logit) of each chosen (sigmoid); `normalise` divides by the sum of the chosen
// weights, added in rank order, and 1e-20 more; then each is multiplied by `scale`.
// A router's `bias` is added to the scores, which the order and the logits then take. `sigmoid` ranks by the score, or, with a
// `selection_bias` or groups by top2, by sigmoid + selection_bias in Q30 (route_score.h). `groups` limit the choice (route_groups.h).
// Sources: gpt-oss (router bias), DeepSeek-V2 and V3 (groups, sigmoid with a bias for the selection alone, the weights' scale and the 1e-20).
#pragma once
#include <cstdint>

#include "core/plan.h"
#include "core/tie_hash.h"
#include "cpu/kernels.h"

namespace tmoe {

inline constexpr size_t kMaxExperts = 4096;
inline constexpr size_t kMaxActive = 256;          ///< experts of one token
inline constexpr size_t kMaxRouterWidth = 65536;   ///< 2^16 products of 46 bits stay below 2^63

struct RouterView {
    const int32_t* weights;   ///< [experts][width], 24-bit integers
    int exponent;             ///< w = q · 2^(exponent - 23)
    size_t experts, width;
};

struct HserRouting;  // cpu/route_hser.h

struct RouteArgs {
    const float* states;           ///< [tokens][width], normalised hidden states, finite
    size_t tokens;
    RouterView router;
    size_t k;
    RouteForm form;
    bool normalise;
    float scale = 1;               ///< of the weights
    uint32_t layer;
    uint32_t seed[4];
    const uint32_t* positions;     ///< [tokens], absolute in each token's own sequence
    const uint8_t* enabled;        ///< [experts], 0 = disabled by the TierSet; null = all enabled
    const uint8_t* const* masks = nullptr;   ///< [tokens]: `enabled` of each token by itself, where requests differ; null = `enabled` for all
    int32_t* ids;                  ///< out [tokens][k], best first
    float* weights;                ///< out [tokens][k]
    int64_t* scores;               ///< out [tokens][experts], without the bias: scratch and routing output
    int32_t* states24;             ///< scratch [tokens][width]
    float* probabilities;          ///< scratch [tokens][experts]
    const int32_t* bias = nullptr;            ///< [experts], 24-bit integers: b = q · 2^(bias_exponent - 23); null = none
    int bias_exponent = 0;
    const int64_t* selection_bias = nullptr;  ///< [experts] in Q30, of RouteForm::Sigmoid, at most ± kMostSelectionBias; null = none
    RouteGroups groups;
    int64_t* ranks = nullptr;      ///< scratch [tokens][experts] of devices; null where ranks_by_scores
    const HserRouting* hser = nullptr;   ///< of RouteForm::Hser: `scores` and `probabilities` are then [tokens][route_rows]

    const uint8_t* mask(size_t token) const { return masks ? masks[token] : enabled; }
    /** Whether experts are ranked by their sigmoids and not by their scores, which order them as finely as can be. */
    TMOE_HOST_DEVICE bool ranks_by_sigmoid() const {
        return form == RouteForm::Sigmoid && (selection_bias || (groups.count > 0 && groups.score == GroupScore::Top2));
    }
    /** Whether rows are ordered by nothing but their scores. */
    bool ranks_by_scores() const { return !bias && !selection_bias && groups.count == 0; }
};

/** Numbers per token in `scores` and `probabilities`: the rows of all routers. */
size_t route_rows(const RouteArgs& args);

/** VALIDATION_ERROR where a form has biases or groups that it cannot have, or groups that do not fit the experts and k. */
Status check_extras(const RouteArgs& args);
/** VALIDATION_ERROR where k or a size is out of range, or where too few experts are enabled. */
Status check_route(const RouteArgs& args);
/** VALIDATION_ERROR when k exceeds the enabled experts or a size is out of range; CANCELLED. */
Status route(const Context& context, const RouteArgs& args);
/** The same result from loops that a reader can check by eye. */
Status route_ref(const RouteArgs& args);

}  // namespace tmoe
