#include "core/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/elementary.h"

namespace tmoe {

namespace {

struct Candidate {
    float logit;
    int32_t id;
    bool operator<(const Candidate& other) const {  // better first
        return logit != other.logit ? logit > other.logit : id < other.id;
    }
};

void report_logprobs(const Kernels& kernels, const float* logits, size_t vocab, int32_t token, int32_t top, float* scratch, Sampled& out) {
    memcpy(scratch, logits, vocab * sizeof(float));
    kernels.softmax(scratch, vocab);
    const auto likeliest = static_cast<size_t>(std::max_element(logits, logits + vocab) - logits);
    const auto logprob = [&](int32_t id) { return log_probability(logits[id], logits[likeliest], scratch[likeliest]); };
    out.has_logprob = true;
    out.logprob = logprob(token);
    if (top <= 0) return;
    std::vector<Candidate> best(vocab);
    for (size_t i = 0; i < vocab; i++) best[i] = {logits[i], static_cast<int32_t>(i)};
    const size_t count = std::min(static_cast<size_t>(top), vocab);
    std::partial_sort(best.begin(), best.begin() + static_cast<ptrdiff_t>(count), best.end());
    for (size_t i = 0; i < count; i++) {
        out.top_ids.push_back(best[i].id);
        out.top_logprobs.push_back(logprob(best[i].id));
    }
}

/** How many of the sorted candidates top-p and min-p keep; p holds their probabilities. */
size_t keep(const SamplingParams& params, const std::vector<float>& p) {
    size_t count = p.size();
    if (params.top_p < 1) {
        float sum = 0;
        size_t kept = 0;
        while (kept < count && sum < params.top_p) sum = sum + p[kept++];
        count = std::max<size_t>(kept, 1);
    }
    if (params.min_p > 0) {
        const float least = params.min_p * p[0];
        while (count > 1 && p[count - 1] < least) count--;
    }
    return count;
}

}  // namespace

Status check_logits(const float* logits, size_t vocab, uint64_t position) {
    for (size_t i = 0; i < vocab; i++) {
        if (!std::isfinite(logits[i])) return logit_not_finite(i, position);
    }
    return {};
}

Status logit_not_finite(size_t index, uint64_t position) {
    return Status(StatusCode::RUNTIME_NAN_DETECTED, format("logit %zu of position %llu is not finite", index, static_cast<unsigned long long>(position)))
        .with("token", static_cast<double>(index));
}

Status every_token_banned() { return Status(StatusCode::VALIDATION_ERROR, "no token of the vocabulary may be chosen"); }

float log_probability(float logit, float best_logit, float best_probability) {
    return static_cast<float>(static_cast<double>(logit) - best_logit + log_of(best_probability));
}

float uniform_at(uint64_t seed, uint64_t position) {
    uint64_t x = seed + 0x9e3779b97f4a7c15ull * (position + 1);  // splitmix64's counter and finaliser
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    x = x ^ (x >> 31);
    return static_cast<float>(x >> 40) * 0x1p-24f;
}

Status sample(const Kernels& kernels, const float* logits, size_t vocab, const SamplingParams& params, uint64_t position,
              float* scratch, Sampled& out) {
    TMOE_RETURN_IF_ERROR(check_logits(logits, vocab, position));
    float* adjusted = scratch + vocab;
    memcpy(adjusted, logits, vocab * sizeof(float));
    if (params.repetition_penalty != 1) {
        std::vector<int32_t> seen(params.recent);
        std::sort(seen.begin(), seen.end());
        seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
        for (int32_t id : seen) {
            if (id >= 0 && static_cast<size_t>(id) < vocab) adjusted[id] = penalised(adjusted[id], params.repetition_penalty);
        }
    }
    for (int32_t id : params.banned) {
        if (id >= 0 && static_cast<size_t>(id) < vocab) adjusted[id] = -INFINITY;
    }
    for (size_t i = 0; !params.allowed.empty() && i < vocab; i++) {
        if (!has_bit(params.allowed.data(), params.allowed.size(), i)) adjusted[i] = -INFINITY;
    }
    size_t best = 0;
    for (size_t i = 1; i < vocab; i++) best = adjusted[i] > adjusted[best] ? i : best;
    if (adjusted[best] == -INFINITY) return every_token_banned();

    if (params.temperature == 0) {
        out.token = static_cast<int32_t>(best);
    } else {
        std::vector<Candidate> candidates;
        candidates.reserve(vocab);
        for (size_t i = 0; i < vocab; i++) {
            if (adjusted[i] != -INFINITY) candidates.push_back({adjusted[i], static_cast<int32_t>(i)});
        }
        if (params.top_k > 0 && static_cast<size_t>(params.top_k) < candidates.size()) {
            const auto end = candidates.begin() + params.top_k;
            std::partial_sort(candidates.begin(), end, candidates.end());
            candidates.erase(end, candidates.end());
        } else {
            std::sort(candidates.begin(), candidates.end());
        }
        std::vector<float> p(candidates.size());
        for (size_t i = 0; i < p.size(); i++) p[i] = (candidates[i].logit - adjusted[best]) / params.temperature;
        kernels.softmax(p.data(), p.size());
        const size_t count = keep(params, p);
        float total = 0;
        for (size_t i = 0; i < count; i++) total = total + p[i];
        const float target = uniform_at(params.seed, position) * total;
        float sum = 0;
        size_t chosen = 0;
        for (; chosen + 1 < count; chosen++) {
            sum = sum + p[chosen];
            if (target < sum) break;
        }
        out.token = candidates[chosen].id;
    }
    if (params.top_logprobs >= 0) report_logprobs(kernels, logits, vocab, out.token, params.top_logprobs, scratch, out);
    return {};
}

}  // namespace tmoe
