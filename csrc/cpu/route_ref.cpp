#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/math_ref.h"
#include "cpu/route.h"
#include "cpu/route_hser.h"
#include "cpu/route_score_ref.h"

namespace tmoe {

Status route_ref(const RouteArgs& a) {
    if (a.form == RouteForm::Hser) return route_hser_ref(a);
    const RouterView& r = a.router;
    TMOE_RETURN_IF_ERROR(check_route(a));
    std::vector<int64_t> state(r.width);
    for (size_t t = 0; t < a.tokens; t++) {
        const float* x = a.states + t * r.width;
        float most = 0;
        for (size_t c = 0; c < r.width; c++) most = std::max(most, std::fabs(x[c]));
        int exponent = -103;
        while (exponent < 128 && most >= std::ldexp(1.0, exponent)) exponent++;
        for (size_t c = 0; c < r.width; c++) {
            state[c] = std::isfinite(most) ? static_cast<int64_t>(std::nearbyint(std::ldexp(static_cast<double>(x[c]), 23 - exponent))) : 0;
        }

        int64_t* scores = a.scores + t * r.experts;
        const uint8_t* mask = a.mask(t);
        std::vector<size_t> order;
        for (size_t e = 0; e < r.experts; e++) {
            scores[e] = 0;
            for (size_t c = 0; c < r.width; c++) scores[e] += state[c] * r.weights[e * r.width + c];
            if (!mask || mask[e]) order.push_back(e);
        }
        const std::vector<size_t> enabled = order;
        std::vector<int64_t> ranks(scores, scores + r.experts);
        std::vector<float> logits(r.experts);
        for (size_t e = 0; e < r.experts; e++) {
            int unit = exponent + r.exponent - 46;
            if (a.bias) ranks[e] = biased_ref(scores[e], a.bias[e], a.bias_exponent, unit);
            logits[e] = static_cast<float>(std::ldexp(static_cast<double>(ranks[e]), unit));
            if (a.ranks_by_sigmoid()) ranks[e] = sigmoid_q30_ref(ranks[e], unit) + (a.selection_bias ? a.selection_bias[e] : 0);
        }
        const auto hash = [&](size_t row) { return tie_hash(a.seed, a.layer, a.positions[t], static_cast<uint32_t>(row)); };
        if (a.groups.count > 0) order = in_best_groups_ref(order, a.groups, r.experts, [&](size_t e) { return ranks[e]; }, hash);
        std::sort(order.begin(), order.end(), [&](size_t p, size_t q) {
            if (ranks[p] != ranks[q]) return ranks[p] > ranks[q];
            return hash(p) != hash(q) ? hash(p) < hash(q) : p < q;
        });
        order.resize(a.k);

        const std::vector<size_t>& weighed = a.form == RouteForm::SoftmaxTopk ? enabled : order;
        std::vector<float> p;
        for (size_t e : weighed) p.push_back(a.form == RouteForm::Sigmoid ? sigmoid_ref(logits[e]) : logits[e]);
        if (a.form != RouteForm::Sigmoid) softmax_ref(p.data(), p.size());
        float sum = 0;
        for (size_t s = 0; s < a.k; s++) {
            const size_t at = static_cast<size_t>(std::find(weighed.begin(), weighed.end(), order[s]) - weighed.begin());
            a.ids[t * a.k + s] = static_cast<int32_t>(order[s]);
            a.weights[t * a.k + s] = p[at];
            sum = sum + p[at];
        }
        sum = sum + 1e-20f;
        for (size_t s = 0; s < a.k; s++) a.weights[t * a.k + s] = (a.normalise ? a.weights[t * a.k + s] / sum : a.weights[t * a.k + s]) * a.scale;
    }
    return {};
}

}  // namespace tmoe
