// Sampling on the device: one token per row of logits, in the order that core/sampling.h documents.
#pragma once
#include "core/sampling.h"
#include "cuda/api.h"

namespace tmoe {
namespace cuda {

inline constexpr size_t kMostAlternatives = 20;

/** What one row asks for. */
struct SampleRow {
    float temperature, top_p, min_p, penalty, uniform;   ///< uniform: uniform_at(seed, position)
    int32_t top_k, top_logprobs;
    uint32_t first_recent, recent, first_banned, banned; ///< in `ids`; recent: each once; all inside the vocabulary
    uint32_t first_allowed, allowed;                     ///< words of a mask in `ids`; none: all tokens may be chosen
};

struct SampleOutcome {
    uint32_t not_finite;         ///< the first logit that is not, or UINT32_MAX; then nothing else holds
    int32_t token;               ///< -1: no token may be chosen
    float token_logit, best_logit, sum;   ///< sum: of exp(logit - best_logit) over the plain row; with top_logprobs ≥ 0
    int32_t top_ids[kMostAlternatives];
    float top_logits[kMostAlternatives];
};

struct SampleCall {
    const float* logits;         ///< [rows of `row_of`][vocab]
    const uint32_t* row_of;      ///< [rows]; null: row i
    size_t rows, vocab;
    const SampleRow* wishes;     ///< [rows]
    const int32_t* ids;          ///< lists of tokens, and masks
    float* adjusted;             ///< scratch [rows][vocab]
    float* probabilities;        ///< scratch [rows][vocab]
    uint64_t* keys;              ///< scratch [rows][sort_size(vocab)]
    SampleOutcome* out;          ///< [rows]
};

/** Keys that a row sorts: a power of two. */
inline size_t sort_size(size_t vocab) {
    size_t size = 1;
    while (size < vocab) size *= 2;
    return size;
}

Status sample(Stream& stream, const SampleCall& call);

/** The host's part: a row's wish (its lists are appended to `ids`), and what an outcome means. */
SampleRow describe_sample(const SamplingParams& params, uint64_t position, size_t vocab, std::vector<int32_t>& ids);
Status read_sample(const SampleOutcome& outcome, const SamplingParams& params, uint64_t position, size_t vocab, Sampled& out);

}  // namespace cuda
}  // namespace tmoe
