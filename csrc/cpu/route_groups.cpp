#include "cpu/route_groups.h"

#include <algorithm>
#include <vector>

namespace tmoe {

Status check_groups(const RouteGroups& g, size_t experts, size_t k) {
    if (g.count > kMaxGroups || experts % g.count != 0 || g.used == 0 || g.used > g.count) {
        return Status(StatusCode::VALIDATION_ERROR, format("route: %u of %u groups of %zu experts; at most %zu groups of one size", g.used, g.count, experts, kMaxGroups));
    }
    const size_t enough = g.used * (experts / g.count);
    if (k <= enough) return {};
    return Status(StatusCode::VALIDATION_ERROR, format("route: k = %zu, but %u of %u groups have %zu experts", k, g.used, g.count, enough))
        .with("k", static_cast<double>(k))
        .with("enabled", static_cast<double>(enough));
}

Status check_groups_mask(const RouteGroups& g, size_t experts, size_t k, const uint8_t* enabled) {
    if (g.count == 0 || !enabled) return {};
    const size_t size = experts / g.count;
    std::vector<size_t> counts;
    for (size_t first = 0; first < experts; first += size) {
        const auto own = size - static_cast<size_t>(std::count(enabled + first, enabled + first + size, uint8_t{0}));
        if (own > 0) counts.push_back(own);
    }
    std::sort(counts.begin(), counts.end());
    size_t fewest = 0;
    for (size_t i = 0; i < std::min<size_t>(g.used, counts.size()); i++) fewest += counts[i];
    if (fewest >= k) return {};
    return Status(StatusCode::VALIDATION_ERROR, format("route: %zu enabled in the %u groups that have fewest, %zu are to be chosen", fewest, g.used, k))
        .with("level", "group")
        .with("k", static_cast<double>(k))
        .with("enabled", static_cast<double>(fewest));
}

size_t keep_best_groups(const RouteArgs& a, size_t token, Candidate* candidates, size_t count) {
    const size_t experts = a.router.experts, size = experts / a.groups.count;
    Candidate groups[kMaxGroups];
    size_t found = 0;
    for (size_t i = 0; i < count;) {
        const size_t group = candidates[i].index / size;
        int64_t best = candidates[i++].score, second = INT64_MIN;
        for (; i < count && candidates[i].index / size == group; i++) {
            const int64_t score = candidates[i].score;
            second = std::max(second, std::min(best, score));
            best = std::max(best, score);
        }
        const auto index = static_cast<uint32_t>(experts + group);
        const int64_t score = a.groups.score == GroupScore::Top2 && second != INT64_MIN ? best + second : best;
        groups[found++] = {score, tie_hash(a.seed, a.layer, a.positions[token], index), index};
    }
    if (found <= a.groups.used) return count;
    std::partial_sort(groups, groups + a.groups.used, groups + found);
    bool kept[kMaxGroups] = {};
    for (size_t i = 0; i < a.groups.used; i++) kept[groups[i].index - experts] = true;
    const auto end = std::remove_if(candidates, candidates + count, [&](const Candidate& c) { return !kept[c.index / size]; });
    return static_cast<size_t>(end - candidates);
}

}  // namespace tmoe
