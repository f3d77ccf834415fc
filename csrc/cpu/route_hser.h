// route, hierarchical form (HSER): tiers, then groups within the chosen tiers, then experts within the chosen groups. Source: Lite LLM 003
// and 005. A flat router is the case of one tier with one group.
//
// Three routers, each a matrix of 24-bit integers with one exponent: tiers [tiers][width], groups [groups][width] in (tier, group) order,
// experts [experts][width] in (tier, group, expert) order (RouteArgs::router). Scores are exact as in cpu/route.h. Every level chooses its k
// best in the seeded total order; the index of its tie hash is the row's number in the stack of all routers, experts first: expert e has e,
// group g has experts + g, tier t has experts + groups + t, so that no two levels share a hash.
// Weight of an expert = (p_tier · p_group) · p_expert, each a softmax over the enabled set of its level; `normalise` divides by their sum,
// added in output order. Output: k = k_tier · k_group · k_expert expert ids, by rank of tier, then of group, then of expert.
//
// RouteArgs::enabled (or a mask per token) masks experts; a group is enabled where one of its experts is, a tier where one of its groups is.
// RouteArgs::scores has route_rows() numbers per token in the stack's order; INT64_MIN where a router was not asked.
#pragma once
#include "cpu/route.h"

namespace tmoe {

struct HserRouting {
    RouterView tiers, groups;        ///< `experts` is their number of rows
    const uint32_t* tier_groups;     ///< [tiers + 1], from 0, ascending: tier t owns groups tier_groups[t] … tier_groups[t + 1] - 1
    const uint32_t* group_experts;   ///< [groups + 1], from 0, ascending: group g owns experts group_experts[g] … group_experts[g + 1] - 1
    size_t k_tier, k_group, k_expert;
    size_t bound;                    ///< most experts that may be active per token: k_tier · k_group · k_expert ≤ bound
};

/**
 * Sizes and offsets fit each other, every tier has k_group groups and every group k_expert experts, k is the product and within the bound:
 * VALIDATION_ERROR otherwise. `experts`: rows of the expert router.
 */
Status check_hser(const HserRouting& hser, size_t experts, size_t k);
/** A mask leaves k_tier tiers, k_group groups in each enabled tier, k_expert experts in each enabled group: VALIDATION_ERROR {level, k, enabled}. */
Status check_hser_mask(const HserRouting& hser, const uint8_t* enabled);

Status route_hser(const Context& context, const RouteArgs& args);
Status route_hser_ref(const RouteArgs& args);

}  // namespace tmoe
