#include "core/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

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

/** Logits with the greatest of each block, so that a search passes over most of them. */
class Ranking {
  public:
    Ranking(const Kernels& kernels, const float* logits, size_t count)
        : logits_(logits), count_(count), maxima_((count + kMaximaBlock - 1) / kMaximaBlock), finite_(kernels.block_maxima(logits, count, maxima_.data())) {}

    bool finite() const { return finite_; }

    /** The first of the greatest. */
    size_t best() const {
        const auto block = std::max_element(maxima_.begin(), maxima_.end());
        const float* from = logits_ + static_cast<size_t>(block - maxima_.begin()) * kMaximaBlock;
        return static_cast<size_t>(std::find(from, logits_ + count_, *block) - logits_);
    }

    /** The best `most` that may be chosen, best first. */
    std::vector<Candidate> top(size_t most) const {
        std::vector<Candidate> kept;   // a heap with the worst of them first
        kept.reserve(most);
        for (size_t block = 0; block < maxima_.size(); block++) {
            // A later one with an equal logit is worse.
            if (kept.size() == most && !(maxima_[block] > kept.front().logit)) continue;
            const size_t first = block * kMaximaBlock;
            for (size_t i = first; i < std::min(first + kMaximaBlock, count_); i++) {
                const Candidate next = {logits_[i], static_cast<int32_t>(i)};
                if (next.logit == -INFINITY) continue;
                if (kept.size() == most) {
                    if (!(next < kept.front())) continue;
                    std::pop_heap(kept.begin(), kept.end());
                    kept.pop_back();
                }
                kept.push_back(next);
                std::push_heap(kept.begin(), kept.end());
            }
        }
        std::sort_heap(kept.begin(), kept.end());
        return kept;
    }

    /** All that may be chosen, best first. */
    std::vector<Candidate> all() const {
        std::vector<Candidate> candidates;
        candidates.reserve(count_);
        for (size_t i = 0; i < count_; i++) {
            if (logits_[i] != -INFINITY) candidates.push_back({logits_[i], static_cast<int32_t>(i)});
        }
        sort(candidates);
        return candidates;
    }

  private:
    /** Ascends where a logit descends; the same for both zeros. */
    static uint32_t key_of(float logit) {
        const float x = logit + 0.0f;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        return bits >> 31 ? bits : ~bits & 0x7fffffffu;
    }

    /** Best first, of candidates in the order of their ids: digit by digit from the least, each pass keeping the order of equals. */
    static void sort(std::vector<Candidate>& candidates) {
        constexpr int kBits = 11, kPasses = 3;
        constexpr uint32_t kDigits = 1u << kBits;
        std::vector<uint32_t> places(kPasses * kDigits);   // of each digit: how many there are, then where the next one goes
        for (const Candidate& one : candidates) {
            for (int pass = 0; pass < kPasses; pass++) places[pass * kDigits + (key_of(one.logit) >> pass * kBits) % kDigits]++;
        }
        std::vector<Candidate> sorted(candidates.size());
        for (int pass = 0; pass < kPasses; pass++) {
            uint32_t* place = places.data() + pass * kDigits;
            uint32_t sum = 0;
            for (uint32_t digit = 0; digit < kDigits; digit++) sum += std::exchange(place[digit], sum);
            for (const Candidate& one : candidates) sorted[place[(key_of(one.logit) >> pass * kBits) % kDigits]++] = one;
            candidates.swap(sorted);
        }
    }

    const float* logits_;
    size_t count_;
    std::vector<float> maxima_;
    bool finite_;
};

/** The logits that are chosen by: `logits`, or what the request makes of them, in `scratch`. */
const float* adjust(const float* logits, size_t vocab, const SamplingParams& params, float* scratch) {
    if (params.repetition_penalty == 1 && params.banned.empty() && params.allowed.empty()) return logits;
    memcpy(scratch, logits, vocab * sizeof(float));
    if (params.repetition_penalty != 1) {
        std::vector<int32_t> seen(params.recent);
        std::sort(seen.begin(), seen.end());
        seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
        for (int32_t id : seen) {
            if (id >= 0 && static_cast<size_t>(id) < vocab) scratch[id] = penalised(scratch[id], params.repetition_penalty);
        }
    }
    for (int32_t id : params.banned) {
        if (id >= 0 && static_cast<size_t>(id) < vocab) scratch[id] = -INFINITY;
    }
    for (size_t i = 0; !params.allowed.empty() && i < vocab; i++) {
        if (!has_bit(params.allowed.data(), params.allowed.size(), i)) scratch[i] = -INFINITY;
    }
    return scratch;
}

void report_logprobs(const Kernels& kernels, const float* logits, size_t vocab, const Ranking& ranking, int32_t token, int32_t top, float* scratch, Sampled& out) {
    memcpy(scratch, logits, vocab * sizeof(float));
    kernels.softmax(scratch, vocab);
    const size_t likeliest = ranking.best();
    const auto logprob = [&](int32_t id) { return log_probability(logits[id], logits[likeliest], scratch[likeliest]); };
    out.has_logprob = true;
    out.logprob = logprob(token);
    if (top <= 0) return;
    for (const Candidate& one : ranking.top(std::min(static_cast<size_t>(top), vocab))) {
        out.top_ids.push_back(one.id);
        out.top_logprobs.push_back(logprob(one.id));
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
    const Ranking plain(kernels, logits, vocab);
    if (!plain.finite()) return check_logits(logits, vocab, position);
    const float* adjusted = adjust(logits, vocab, params, scratch + vocab);
    const Ranking changed = adjusted == logits ? plain : Ranking(kernels, adjusted, vocab);
    const size_t best = changed.best();
    if (adjusted[best] == -INFINITY) return every_token_banned();

    if (params.temperature == 0) {
        out.token = static_cast<int32_t>(best);
    } else {
        const bool few = params.top_k > 0 && static_cast<size_t>(params.top_k) < vocab;
        const std::vector<Candidate> candidates = few ? changed.top(static_cast<size_t>(params.top_k)) : changed.all();
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
    if (params.top_logprobs >= 0) report_logprobs(kernels, logits, vocab, plain, out.token, params.top_logprobs, scratch, out);
    return {};
}

}  // namespace tmoe
