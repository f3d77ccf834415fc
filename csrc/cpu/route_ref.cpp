#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/math_ref.h"
#include "cpu/route.h"
#include "cpu/route_hser.h"

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
        const auto hash = [&](size_t e) { return tie_hash(a.seed, a.layer, a.positions[t], static_cast<uint32_t>(e)); };
        std::sort(order.begin(), order.end(), [&](size_t p, size_t q) {
            if (scores[p] != scores[q]) return scores[p] > scores[q];
            return hash(p) != hash(q) ? hash(p) < hash(q) : p < q;
        });
        order.resize(a.k);

        const auto logit = [&](size_t e) { return static_cast<float>(std::ldexp(static_cast<double>(scores[e]), exponent + r.exponent - 46)); };
        const std::vector<size_t>& ranked = a.form == RouteForm::TopkSoftmax ? order : enabled;
        std::vector<float> p;
        for (size_t e : ranked) p.push_back(logit(e));
        softmax_ref(p.data(), p.size());
        float sum = 0;
        for (size_t s = 0; s < a.k; s++) {
            const size_t at = static_cast<size_t>(std::find(ranked.begin(), ranked.end(), order[s]) - ranked.begin());
            a.ids[t * a.k + s] = static_cast<int32_t>(order[s]);
            a.weights[t * a.k + s] = p[at];
            sum = sum + p[at];
        }
        for (size_t s = 0; s < a.k && a.normalise; s++) a.weights[t * a.k + s] = a.weights[t * a.k + s] / sum;
    }
    return {};
}

}  // namespace tmoe
