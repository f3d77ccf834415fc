// Group-limited routes: experts in `count` groups of equal size, in order; of the groups with an enabled expert the `used` best stay, and the
// k best experts of these are chosen. Source: DeepSeek-V2 (a group's score is its best expert's), DeepSeek-V3 (the sum of its two best).
//
// A group's score is the rank of its best enabled expert, or the sum of the ranks of its two best (of one where one is enabled). Groups are in
// the seeded total order; the index of a group's tie hash is experts + group, as in cpu/route_hser.h.
#pragma once
#include "cpu/route.h"
#include "cpu/route_order.h"

namespace tmoe {

inline constexpr size_t kMaxGroups = 256;

/** Groups are equal, `used` of them hold k experts: VALIDATION_ERROR otherwise. */
Status check_groups(const RouteGroups& groups, size_t experts, size_t k);
/**
 * Whichever groups a token's best are, they have k experts that the mask (null = all) enables: VALIDATION_ERROR {level, k, enabled} where the
 * fewest do not. Where fewer than `used` groups have any expert, all of them stay.
 */
Status check_groups_mask(const RouteGroups& groups, size_t experts, size_t k, const uint8_t* enabled);

/** Candidates ascend by index. Keeps those of the best groups, in their order; returns how many. */
size_t keep_best_groups(const RouteArgs& args, size_t token, Candidate* candidates, size_t count);

}  // namespace tmoe
