// The naive twin of sample: every step of the documented order over the whole vocabulary.
#include <algorithm>

#include "core/sampling.h"
#include "cpu/math_ref.h"

namespace tmoe {

namespace {

bool may_choose(const SamplingParams& params, int32_t id) {
    const std::vector<uint32_t>& words = params.allowed;
    const auto word = static_cast<size_t>(id) / 32;
    if (!words.empty() && (word >= words.size() || (words[word] & (1u << (id % 32))) == 0)) return false;
    return std::find(params.banned.begin(), params.banned.end(), id) == params.banned.end();
}

bool holds(const std::vector<int32_t>& ids, int32_t id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

/** Ids in descending order of logit, then ascending. */
void sort_best_first(std::vector<int32_t>& ids, const std::vector<float>& logits) {
    std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
        const float p = logits[static_cast<size_t>(a)], q = logits[static_cast<size_t>(b)];
        return p != q ? p > q : a < b;
    });
}

/** How many of the candidates top-p leaves, then min-p. */
size_t kept(const SamplingParams& params, const std::vector<float>& p) {
    size_t count = p.size();
    if (params.top_p < 1) {
        float sum = 0;
        count = 0;
        for (float each : p) {
            if (sum >= params.top_p) break;
            sum = sum + each;
            count++;
        }
    }
    if (count == 0) count = 1;
    while (params.min_p > 0 && count > 1 && p[count - 1] < params.min_p * p[0]) count--;
    return count;
}

}  // namespace

Status sample_ref(const float* logits, size_t vocab, const SamplingParams& params, uint64_t position, Sampled& out) {
    TMOE_RETURN_IF_ERROR(check_logits(logits, vocab, position));
    const std::vector<float> given(logits, logits + vocab);
    std::vector<float> adjusted = given;
    std::vector<int32_t> all, order;
    for (size_t i = 0; i < vocab; i++) {
        const int32_t id = static_cast<int32_t>(i);
        if (params.repetition_penalty != 1 && holds(params.recent, id)) adjusted[i] = penalised(given[i], params.repetition_penalty);
        if (may_choose(params, id)) order.push_back(id);
        all.push_back(id);
    }
    if (order.empty()) return every_token_banned();
    sort_best_first(order, adjusted);
    out.token = order[0];

    if (params.temperature != 0) {
        if (params.top_k > 0 && static_cast<size_t>(params.top_k) < order.size()) order.resize(static_cast<size_t>(params.top_k));
        const float best = adjusted[static_cast<size_t>(order[0])];
        std::vector<float> p;
        for (int32_t id : order) p.push_back((adjusted[static_cast<size_t>(id)] - best) / params.temperature);
        softmax_ref(p.data(), p.size());
        const size_t count = kept(params, p);
        float total = 0, sum = 0;
        for (size_t i = 0; i < count; i++) total = total + p[i];
        const float target = uniform_at(params.seed, position) * total;
        for (size_t i = 0; i < count; i++) {
            sum = sum + p[i];
            out.token = order[i];
            if (target < sum) break;
        }
    }

    if (params.top_logprobs < 0) return {};
    std::vector<float> p = given;
    softmax_ref(p.data(), vocab);
    sort_best_first(all, given);
    const auto best = static_cast<size_t>(all[0]);
    const auto logprob = [&](int32_t id) { return log_probability(given[static_cast<size_t>(id)], given[best], p[best]); };
    out.has_logprob = true;
    out.logprob = logprob(out.token);
    for (size_t i = 0; i < vocab && i < static_cast<size_t>(params.top_logprobs); i++) {
        out.top_ids.push_back(all[i]);
        out.top_logprobs.push_back(logprob(all[i]));
    }
    return {};
}

}  // namespace tmoe
