// Sampling of one token from logits: counter-based, so that (seed, position) alone decides the draw.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/host_device.h"
#include "cpu/kernels.h"

namespace tmoe {

struct SamplingParams {
    float temperature = 0;             ///< 0 = the largest logit, smallest id first on a tie
    int32_t top_k = 0;                 ///< 0 = off
    float top_p = 1;                   ///< 1 = off
    float min_p = 0;                   ///< 0 = off
    float repetition_penalty = 1;      ///< 1 = off
    uint64_t seed = 0;
    int32_t top_logprobs = -1;         ///< -1 = no log probability, 0 to 20 = with that many alternatives
    std::vector<int32_t> recent;       ///< tokens that the penalty applies to
    std::vector<int32_t> banned;       ///< tokens that are never chosen
    std::vector<uint32_t> allowed;     ///< a bit for each token that may be chosen, the least first; tokens beyond may not. No words: all may
};

struct Sampled {
    int32_t token = -1;
    bool has_logprob = false;
    float logprob = 0;                 ///< of the token under the plain model (before temperature and filters)
    std::vector<int32_t> top_ids;      ///< most likely first
    std::vector<float> top_logprobs;
};

/** Uniform in [0, 1), 24 bits, from the seed and the absolute position of the token that is drawn. */
float uniform_at(uint64_t seed, uint64_t position);

/**
 * Draws from `logits` [vocab] for the token at `position`. Order: repetition penalty, banned and allowed, top-k, temperature and softmax, top-p, min-p;
 * candidates in descending order of logit, then ascending id. Probabilities are softmax((logit - largest) / temperature), sums run in that order.
 * `scratch` has 2 · vocab floats. RUNTIME_NAN_DETECTED {token} where a logit is not finite, VALIDATION_ERROR where no token may be chosen.
 */
Status sample(const Kernels& kernels, const float* logits, size_t vocab, const SamplingParams& params, uint64_t position,
              float* scratch, Sampled& out);
/** The same token and log probabilities from loops that a reader can check by eye. */
Status sample_ref(const float* logits, size_t vocab, const SamplingParams& params, uint64_t position, Sampled& out);

/** Pieces of both forms. */
Status check_logits(const float* logits, size_t vocab, uint64_t position);
Status logit_not_finite(size_t index, uint64_t position);
Status every_token_banned();
/** ln of a token's probability, given its logit and the largest one's logit and probability; finite also where the probability underflows. */
float log_probability(float logit, float best_logit, float best_probability);
/** Whether a mask of `count` words has a token's bit. */
TMOE_HOST_DEVICE inline bool has_bit(const uint32_t* words, size_t count, size_t token) {
    return token / 32 < count && (words[token / 32] >> (token % 32) & 1) != 0;
}
/** A logit after the repetition penalty, kept finite. */
TMOE_HOST_DEVICE inline float penalised(float logit, float penalty) {
    const float x = logit > 0 ? logit / penalty : logit * penalty;
    return fminf(fmaxf(x, -3.402823466e38f), 3.402823466e38f);
}

}  // namespace tmoe
