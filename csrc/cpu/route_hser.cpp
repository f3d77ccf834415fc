#include "cpu/route_hser.h"

#include <algorithm>

#include "cpu/route_order.h"

namespace tmoe {

namespace {

Status invalid(std::string message) { return Status(StatusCode::VALIDATION_ERROR, std::move(message)); }

/** Offsets rise from 0 to `total`, each part holding at least `least`. */
Status check_offsets(const char* name, const uint32_t* offsets, size_t parts, size_t total, size_t least, const char* what) {
    if (offsets[0] != 0 || offsets[parts] != total) return invalid(format("route: %s runs from %u to %u; 0 to %zu", name, offsets[0], offsets[parts], total));
    for (size_t i = 0; i < parts; i++) {
        if (offsets[i] > offsets[i + 1] || offsets[i + 1] - offsets[i] < least) {
            return invalid(format("route: %s[%zu] to %s[%zu] are fewer %s than the %zu to choose", name, i, name, i + 1, what, least));
        }
    }
    return {};
}

bool any_expert(const HserRouting& h, const uint8_t* enabled, size_t group) {
    const uint8_t *from = enabled + h.group_experts[group], *to = enabled + h.group_experts[group + 1];
    return std::any_of(from, to, [](uint8_t e) { return e != 0; });
}

bool any_group(const HserRouting& h, const uint8_t* enabled, size_t tier) {
    for (size_t g = h.tier_groups[tier]; g < h.tier_groups[tier + 1]; g++) {
        if (any_expert(h, enabled, g)) return true;
    }
    return false;
}

Status too_few(const char* level, size_t k, size_t enabled) {
    return invalid(format("route: %zu enabled at the level of %s, %zu are to be chosen", enabled, level, k))
        .with("level", level)
        .with("k", static_cast<double>(k))
        .with("enabled", static_cast<double>(enabled));
}

struct Choice {
    uint32_t row;
    float probability;
};

/** The route of one token, level by level. */
class TokenRoute {
  public:
    TokenRoute(const Kernels& kernels, const RouteArgs& args, size_t token)
        : kernels_(kernels), a_(args), h_(*args.hser), token_(token), mask_(args.mask(token)), state_(args.states24 + token * args.router.width),
          scores_(args.scores + token * route_rows(args)), probabilities_(args.probabilities + token * route_rows(args)) {}

    void run() {
        const size_t experts = a_.router.experts, width = a_.router.width;
        std::fill(scores_, scores_ + route_rows(a_), INT64_MIN);
        state_exponent_ = kernels_.quantise_state(a_.states + token_ * width, width, state_);
        int32_t* ids = a_.ids + token_ * a_.k;
        float* weights = a_.weights + token_ * a_.k;
        Choice tiers[kMaxActive], groups[kMaxActive], chosen[kMaxActive];
        size_t slot = 0;
        choose(h_.tiers, experts + h_.groups.experts, 0, h_.tiers.experts, h_.k_tier, [&](size_t t) { return any_group(h_, mask_, t); }, tiers);
        for (size_t i = 0; i < h_.k_tier; i++) {
            const size_t tier = tiers[i].row;
            choose(h_.groups, experts, h_.tier_groups[tier], h_.tier_groups[tier + 1], h_.k_group, [&](size_t g) { return any_expert(h_, mask_, g); }, groups);
            for (size_t j = 0; j < h_.k_group; j++) {
                const size_t group = groups[j].row;
                choose(a_.router, 0, h_.group_experts[group], h_.group_experts[group + 1], h_.k_expert, [&](size_t e) { return mask_[e] != 0; }, chosen);
                const float both = tiers[i].probability * groups[j].probability;
                for (size_t s = 0; s < h_.k_expert; s++, slot++) {
                    ids[slot] = static_cast<int32_t>(chosen[s].row);
                    weights[slot] = both * chosen[s].probability;
                }
            }
        }
        finish_weights(weights, a_.k, a_.normalise, a_.scale);
    }

  private:
    /** The k best of the router's rows [first, last). `base`: where the router begins in the stack. */
    template <class Enabled>
    void choose(const RouterView& router, size_t base, size_t first, size_t last, size_t k, Enabled enabled, Choice* out) {
        Candidate candidates[kMaxExperts];
        uint32_t at[kMaxExperts];  // where each row stands among the enabled
        size_t count = 0;
        for (size_t row = first; row < last; row++) {
            const int64_t score = kernels_.dot_i64(state_, router.weights + row * router.width, router.width);
            scores_[base + row] = score;
            if (mask_ && !enabled(row)) continue;
            at[row - first] = static_cast<uint32_t>(count);
            probabilities_[count] = logit_of(score, state_exponent_ + router.exponent - 46);
            candidates[count++] = {score, tie_hash(a_.seed, a_.layer, a_.positions[token_], static_cast<uint32_t>(base + row)), static_cast<uint32_t>(row)};
        }
        std::partial_sort(candidates, candidates + k, candidates + count);
        kernels_.softmax(probabilities_, count);
        for (size_t s = 0; s < k; s++) out[s] = {candidates[s].index, probabilities_[at[candidates[s].index - first]]};
    }

    const Kernels& kernels_;
    const RouteArgs& a_;
    const HserRouting& h_;
    size_t token_;
    const uint8_t* mask_;
    int32_t* state_;
    int64_t* scores_;
    float* probabilities_;
    int state_exponent_ = 0;
};

}  // namespace

Status check_hser(const HserRouting& h, size_t experts, size_t k) {
    const size_t tiers = h.tiers.experts, groups = h.groups.experts;
    if (tiers == 0 || tiers > groups || groups > experts) return invalid(format("route: %zu tiers of %zu groups of %zu experts", tiers, groups, experts));
    for (const size_t each : {h.k_tier, h.k_group, h.k_expert}) {
        if (each == 0 || each > kMaxActive) return invalid(format("route: a level chooses %zu; 1 to %zu are possible", each, kMaxActive));
    }
    const size_t active = h.k_tier * h.k_group * h.k_expert;
    if (active != k) return invalid(format("route: k = %zu is not k_tier · k_group · k_expert = %zu", k, active));
    if (active > h.bound || active > kMaxActive) {
        return invalid(format("route: %zu · %zu · %zu experts would be active, the bound is %zu", h.k_tier, h.k_group, h.k_expert, std::min(h.bound, kMaxActive)))
            .with("active", static_cast<double>(active))
            .with("bound", static_cast<double>(std::min(h.bound, kMaxActive)));
    }
    if (h.k_tier > tiers) return too_few("tier", h.k_tier, tiers);
    TMOE_RETURN_IF_ERROR(check_offsets("tierGroups", h.tier_groups, tiers, groups, h.k_group, "groups"));
    return check_offsets("groupExperts", h.group_experts, groups, experts, h.k_expert, "experts");
}

Status check_hser_mask(const HserRouting& h, const uint8_t* enabled) {
    if (!enabled) return {};
    size_t tiers = 0;
    for (size_t t = 0; t < h.tiers.experts; t++) {
        size_t groups = 0;
        for (size_t g = h.tier_groups[t]; g < h.tier_groups[t + 1]; g++) {
            size_t experts = 0;
            for (size_t e = h.group_experts[g]; e < h.group_experts[g + 1]; e++) experts += enabled[e] != 0;
            if (experts == 0) continue;
            if (experts < h.k_expert) return too_few("expert", h.k_expert, experts);
            groups++;
        }
        if (groups == 0) continue;
        if (groups < h.k_group) return too_few("group", h.k_group, groups);
        tiers++;
    }
    return tiers < h.k_tier ? too_few("tier", h.k_tier, tiers) : Status();
}

Status route_hser(const Context& context, const RouteArgs& args) {
    TMOE_RETURN_IF_ERROR(check_route(args));
    const bool done = context.pool.for_each(args.tokens, context.cancel, [&](size_t token, size_t) { TokenRoute(context.kernels, args, token).run(); });
    return done ? Status() : Status(StatusCode::CANCELLED, "route was cancelled");
}

}  // namespace tmoe
