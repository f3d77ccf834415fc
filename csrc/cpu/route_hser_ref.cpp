#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/math_ref.h"
#include "cpu/route_hser.h"

namespace tmoe {

namespace {

/** One row of a router with what was found for one token. */
struct Row {
    size_t id;
    int64_t score;
    uint32_t hash;
    float probability;
};

/** Softmax over the rows, then the k best of them. */
std::vector<Row> best(std::vector<Row> rows, int exponent, size_t k) {
    std::vector<float> p;
    for (const Row& row : rows) p.push_back(static_cast<float>(std::ldexp(static_cast<double>(row.score), exponent)));
    softmax_ref(p.data(), p.size());
    for (size_t i = 0; i < rows.size(); i++) rows[i].probability = p[i];
    std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
        if (a.score != b.score) return a.score > b.score;
        return a.hash != b.hash ? a.hash < b.hash : a.id < b.id;
    });
    rows.resize(k);
    return rows;
}

}  // namespace

Status route_hser_ref(const RouteArgs& a) {
    TMOE_RETURN_IF_ERROR(check_route(a));
    const HserRouting& h = *a.hser;
    const size_t width = a.router.width, experts = a.router.experts, groups = h.groups.experts;
    for (size_t t = 0; t < a.tokens; t++) {
        const uint8_t* mask = a.mask(t);
        std::vector<bool> expert_on(experts), group_on(groups), tier_on(h.tiers.experts);
        for (size_t tier = 0; tier < h.tiers.experts; tier++) {
            for (size_t g = h.tier_groups[tier]; g < h.tier_groups[tier + 1]; g++) {
                for (size_t e = h.group_experts[g]; e < h.group_experts[g + 1]; e++) {
                    if (mask && !mask[e]) continue;
                    expert_on[e] = group_on[g] = tier_on[tier] = true;
                }
            }
        }

        const float* x = a.states + t * width;
        float most = 0;
        for (size_t c = 0; c < width; c++) most = std::max(most, std::fabs(x[c]));
        int exponent = -103;
        while (exponent < 128 && most >= std::ldexp(1.0, exponent)) exponent++;
        std::vector<int64_t> state(width);
        for (size_t c = 0; c < width; c++) {
            state[c] = std::isfinite(most) ? static_cast<int64_t>(std::nearbyint(std::ldexp(static_cast<double>(x[c]), 23 - exponent))) : 0;
        }

        int64_t* scores = a.scores + t * route_rows(a);
        std::fill(scores, scores + route_rows(a), INT64_MIN);
        const auto scored = [&](const RouterView& router, size_t base, size_t first, size_t last, const std::vector<bool>& on) {
            std::vector<Row> rows;
            for (size_t row = first; row < last; row++) {
                int64_t score = 0;
                for (size_t c = 0; c < width; c++) score += state[c] * router.weights[row * width + c];
                scores[base + row] = score;
                if (on[row]) rows.push_back({row, score, tie_hash(a.seed, a.layer, a.positions[t], static_cast<uint32_t>(base + row)), 0});
            }
            return rows;
        };
        const auto scale = [&](const RouterView& router) { return exponent + router.exponent - 46; };

        size_t slot = t * a.k;
        for (const Row& tier : best(scored(h.tiers, experts + groups, 0, h.tiers.experts, tier_on), scale(h.tiers), h.k_tier)) {
            for (const Row& group : best(scored(h.groups, experts, h.tier_groups[tier.id], h.tier_groups[tier.id + 1], group_on), scale(h.groups), h.k_group)) {
                for (const Row& expert :
                     best(scored(a.router, 0, h.group_experts[group.id], h.group_experts[group.id + 1], expert_on), scale(a.router), h.k_expert)) {
                    a.ids[slot] = static_cast<int32_t>(expert.id);
                    a.weights[slot++] = tier.probability * group.probability * expert.probability;
                }
            }
        }
        float sum = 0;
        for (size_t s = 0; s < a.k; s++) sum = sum + a.weights[t * a.k + s];
        sum = sum + 1e-20f;
        for (size_t s = 0; s < a.k; s++) a.weights[t * a.k + s] = (a.normalise ? a.weights[t * a.k + s] / sum : a.weights[t * a.k + s]) * a.scale;
    }
    return {};
}

}  // namespace tmoe
