// The ranking scores of cpu/route_score.h and the groups of cpu/route_groups.h by the plainest steps, with constants from their definition.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/route.h"

namespace tmoe {

/** value / 2^bits to the nearest, ties to even, a bit at a time. */
inline int64_t nearest_ref(int64_t value, int bits) {
    bool half = false, less = false;  // what was lost, in units of the result: a half, and something below it
    for (; bits > 0; bits--) {
        less = less || half;
        half = value % 2 != 0;
        value = half ? (value - 1) / 2 : value / 2;
    }
    return half && (less || value % 2 != 0) ? value + 1 : value;
}

/** score + bias, both in one unit; `exponent` becomes that of the sum. */
inline int64_t biased_ref(int64_t score, int32_t bias, int bias_exponent, int& exponent) {
    const int unit = std::max(exponent, bias_exponent - 23 - 38);
    const int64_t own = nearest_ref(score, unit - exponent);
    int64_t moved = bias;
    for (int e = unit; e < bias_exponent - 23; e++) moved *= 2;
    moved = nearest_ref(moved, unit - (bias_exponent - 23));
    exponent = unit;
    return own + moved;
}

inline int64_t sigmoid_q30_ref(int64_t sum, int exponent) {
    constexpr double ln2 = 0.69314718055994530942, q31 = 2147483648.0;
    constexpr uint64_t one = uint64_t{1} << 30, most = UINT32_MAX;
    auto x = static_cast<uint64_t>(sum < 0 ? -sum : sum);  // becomes |logit| in Q27
    if (exponent <= -27) x = static_cast<uint64_t>(nearest_ref(static_cast<int64_t>(x), -27 - exponent));
    for (int e = -27; e < exponent && x <= most; e++) x *= 2;
    x = std::min(x, most);
    const uint64_t y = x * static_cast<uint64_t>(std::round(q31 / ln2)), whole = y / (uint64_t{1} << 58), fraction = y % (uint64_t{1} << 58) / (uint64_t{1} << 26);
    uint64_t p = 0;
    for (int k = 11; k >= 0; k--) p = static_cast<uint64_t>(std::round(q31 * std::pow(ln2, k) / std::tgamma(k + 1.0))) - (fraction * p) / (uint64_t{1} << 32);
    const uint64_t e = whole > 30 ? 0 : (p / (uint64_t{1} << whole) + 1) / 2;
    const auto s = static_cast<int64_t>((2 * one * one / (one + e) + 1) / 2);
    return sum < 0 ? static_cast<int64_t>(one) - s : s;
}

/** The experts of `order` (ascending) that are in the best groups. `rank`: of an expert; `hash`: of a row of the stack. */
template <class Rank, class Hash> std::vector<size_t> in_best_groups_ref(const std::vector<size_t>& order, const RouteGroups& g, size_t experts, Rank rank, Hash hash) {
    const size_t size = experts / g.count;
    struct Group {
        size_t index;
        int64_t score;
    };
    std::vector<Group> groups;
    for (size_t index = 0; index < g.count; index++) {
        std::vector<int64_t> own;
        for (size_t e : order) {
            if (e / size == index) own.push_back(rank(e));
        }
        if (own.empty()) continue;
        std::sort(own.begin(), own.end(), std::greater<int64_t>());
        groups.push_back({index, own[0] + (g.score == GroupScore::Top2 && own.size() > 1 ? own[1] : 0)});
    }
    std::sort(groups.begin(), groups.end(), [&](const Group& a, const Group& b) {
        if (a.score != b.score) return a.score > b.score;
        return hash(experts + a.index) != hash(experts + b.index) ? hash(experts + a.index) < hash(experts + b.index) : a.index < b.index;
    });
    groups.resize(std::min<size_t>(groups.size(), g.used));
    std::vector<size_t> kept;
    for (size_t e : order) {
        if (std::any_of(groups.begin(), groups.end(), [&](const Group& group) { return group.index == e / size; })) kept.push_back(e);
    }
    return kept;
}

}  // namespace tmoe
