#include "cpu/route.h"

#include <algorithm>

#include "cpu/route_groups.h"
#include "cpu/route_hser.h"
#include "cpu/route_order.h"
#include "cpu/route_score.h"

namespace tmoe {

namespace {

Status check_levels(const RouteArgs& a) {
    for (const RouterView* router : {&a.hser->tiers, &a.hser->groups}) {
        if (router->width != a.router.width) return Status(StatusCode::VALIDATION_ERROR, format("route: routers of width %zu and %zu", a.router.width, router->width));
    }
    return check_hser(*a.hser, a.router.experts, a.k);
}

}  // namespace

Status check_extras(const RouteArgs& a) {
    const auto refused = [](const char* what) { return Status(StatusCode::VALIDATION_ERROR, format("route: %s", what)); };
    if (a.form == RouteForm::Hser && (a.bias || a.selection_bias || a.groups.count > 0)) return refused("the form hser has no bias and no groups beside its own");
    if (a.selection_bias && a.form != RouteForm::Sigmoid) return refused("a selection bias needs the form sigmoid");
    if (a.groups.count == 0) return {};
    if (a.groups.score == GroupScore::Top2 && a.form != RouteForm::Sigmoid) return refused("groups by top2 need the form sigmoid");
    return check_groups(a.groups, a.router.experts, a.k);
}

Status check_route(const RouteArgs& a) {
    const RouterView& r = a.router;
    if (r.experts == 0 || r.experts > kMaxExperts || r.width == 0 || r.width > kMaxRouterWidth) {
        return Status(StatusCode::VALIDATION_ERROR, format("route: %zu experts of width %zu; at most %zu and %zu, at least 1", r.experts,
                                                           r.width, kMaxExperts, kMaxRouterWidth));
    }
    TMOE_RETURN_IF_ERROR(check_extras(a));
    if (a.form == RouteForm::Hser) TMOE_RETURN_IF_ERROR(check_levels(a));
    const uint8_t* checked = nullptr;
    for (size_t token = 0; token < (a.masks && a.tokens ? a.tokens : 1); token++) {
        const uint8_t* mask = a.masks && a.tokens ? a.mask(token) : a.enabled;
        if (token > 0 && mask == checked) continue;  // tokens of one request stand together
        checked = mask;
        if (a.form == RouteForm::Hser) {
            TMOE_RETURN_IF_ERROR(check_hser_mask(*a.hser, mask));
            continue;
        }
        const size_t enabled = mask ? static_cast<size_t>(std::count_if(mask, mask + r.experts, [](uint8_t e) { return e != 0; })) : r.experts;
        if (a.k > 0 && a.k <= enabled) {
            TMOE_RETURN_IF_ERROR(check_groups_mask(a.groups, r.experts, a.k, mask));
            continue;
        }
        return Status(StatusCode::VALIDATION_ERROR, format("route: k = %zu, but %zu of %zu experts are enabled", a.k, enabled, r.experts))
            .with("k", static_cast<double>(a.k))
            .with("enabled", static_cast<double>(enabled));
    }
    return {};
}

namespace {

constexpr size_t kScoreExperts = 16;   // scores of one token that a worker computes at a time

int quantise_token(const Kernels& kernels, const RouteArgs& a, size_t token) {
    return kernels.quantise_state(a.states + token * a.router.width, a.router.width, a.states24 + token * a.router.width) + a.router.exponent - 46;
}

/** Exact, so it is all one in how many parts and by how many workers. */
void score_experts(const Kernels& kernels, const RouteArgs& a, size_t token, size_t first, size_t last) {
    const RouterView& r = a.router;
    for (size_t e = first; e < last; e++) a.scores[token * r.experts + e] = kernels.dot_i64(a.states24 + token * r.width, r.weights + e * r.width, r.width);
}

/** What a token's experts are chosen and weighed by. */
class Scoring {
  public:
    Scoring(const RouteArgs& a, size_t token, int exponent)
        : a_(a), scores_(a.scores + token * a.router.experts), unit_(a.bias ? BiasUnit::of(exponent, a.bias_exponent) : BiasUnit{exponent, 0, 0}) {}

    /** The score with its bias. */
    int64_t score(size_t expert) const { return a_.bias ? unit_.add(scores_[expert], a_.bias[expert]) : scores_[expert]; }
    int64_t rank(size_t expert) const {
        const int64_t own = score(expert);
        if (!a_.ranks_by_sigmoid()) return own;
        return sigmoid_q30(own, unit_.exponent) + (a_.selection_bias ? a_.selection_bias[expert] : 0);
    }
    float logit(size_t expert) const { return logit_of(score(expert), unit_.exponent); }

  private:
    const RouteArgs& a_;
    const int64_t* scores_;
    BiasUnit unit_;
};

void choose_experts(const Kernels& kernels, const RouteArgs& a, size_t token, int exponent) {
    const RouterView& r = a.router;
    const uint8_t* enabled = a.mask(token);
    const Scoring scoring(a, token, exponent);
    float* probabilities = a.probabilities + token * r.experts;
    int32_t* ids = a.ids + token * a.k;
    float* weights = a.weights + token * a.k;

    Candidate candidates[kMaxExperts];
    size_t count = 0;
    for (size_t e = 0; e < r.experts; e++) {
        if (enabled && !enabled[e]) continue;
        const uint32_t index = static_cast<uint32_t>(e);
        candidates[count++] = {scoring.rank(e), tie_hash(a.seed, a.layer, a.positions[token], index), index};
    }
    if (a.groups.count > 0) count = keep_best_groups(a, token, candidates, count);
    std::partial_sort(candidates, candidates + a.k, candidates + count);
    for (size_t s = 0; s < a.k; s++) ids[s] = static_cast<int32_t>(candidates[s].index);

    if (a.form == RouteForm::SoftmaxTopk) {
        size_t place = 0;
        uint32_t at[kMaxExperts];  // where each expert stands among the enabled
        for (size_t e = 0; e < r.experts; e++) {
            if (enabled && !enabled[e]) continue;
            at[e] = static_cast<uint32_t>(place);
            probabilities[place++] = scoring.logit(e);
        }
        kernels.softmax(probabilities, place);
        for (size_t s = 0; s < a.k; s++) weights[s] = probabilities[at[ids[s]]];
    } else {
        for (size_t s = 0; s < a.k; s++) weights[s] = scoring.logit(candidates[s].index);
        (a.form == RouteForm::Sigmoid ? kernels.sigmoid : kernels.softmax)(weights, a.k);
    }
    finish_weights(weights, a.k, a.normalise, a.scale);
}

}  // namespace

size_t route_rows(const RouteArgs& args) {
    return args.router.experts + (args.form == RouteForm::Hser ? args.hser->groups.experts + args.hser->tiers.experts : 0);
}

Status route(const Context& context, const RouteArgs& args) {
    if (args.form == RouteForm::Hser) return route_hser(context, args);
    TMOE_RETURN_IF_ERROR(check_route(args));
    const Kernels& kernels = context.kernels;
    bool done = true;
    if (args.tokens >= context.pool.threads()) {
        done = context.pool.for_each(args.tokens, context.cancel, [&](size_t token, size_t) {
            const int exponent = quantise_token(kernels, args, token);
            score_experts(kernels, args, token, 0, args.router.experts);
            choose_experts(kernels, args, token, exponent);
        });
    } else {  // fewer tokens than workers: they share a token's experts
        const size_t parts = (args.router.experts + kScoreExperts - 1) / kScoreExperts;
        for (size_t token = 0; token < args.tokens && done; token++) {
            const int exponent = quantise_token(kernels, args, token);
            done = context.pool.for_each(parts, context.cancel, [&](size_t part, size_t) {
                score_experts(kernels, args, token, part * kScoreExperts, std::min(args.router.experts, (part + 1) * kScoreExperts));
            });
            if (done) choose_experts(kernels, args, token, exponent);
        }
    }
    if (!done) return Status(StatusCode::CANCELLED, "route was cancelled");
    return {};
}

}  // namespace tmoe
