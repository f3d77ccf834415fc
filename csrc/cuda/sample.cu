// sample: a block has one row. Candidates are sorted as 64-bit keys, tile by tile in shared memory; sums run in their order by one thread.
#include "cuda/sample.h"

#include <algorithm>

#include "cuda/math.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kLeastThreads = 256, kMostThreads = 1024;   // of a block; both have the same bits
constexpr size_t kTile = 4096;   // keys in shared memory at once
constexpr uint64_t kWorst = UINT64_MAX;

struct Memory {
    SoftmaxScratch softmax;
    uint64_t best[kMostThreads / kWarp];
    unsigned count[kMostThreads / kWarp];
};

/** Ascending keys are descending logits, then ascending ids; -0 is 0. */
__device__ inline uint64_t key_of(float logit, uint32_t id) {
    const uint32_t bits = float_bits(logit + 0.0f), ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(~ordered) << 32 | id;
}

__device__ inline uint64_t block_least(uint64_t key, Memory& memory) {
    for (int step = 16; step > 0; step /= 2) {
        const uint64_t other = __shfl_xor_sync(kAllLanes, static_cast<unsigned long long>(key), step);
        key = other < key ? other : key;
    }
    if (threadIdx.x % kWarp == 0) memory.best[threadIdx.x / kWarp] = key;
    __syncthreads();
    for (unsigned warp = 0; warp < blockDim.x / kWarp; warp++) key = memory.best[warp] < key ? memory.best[warp] : key;
    __syncthreads();
    return key;
}

/** The best of x whose key is above `above`. */
__device__ inline uint64_t best_of(const float* x, size_t n, uint64_t above, bool any, Memory& memory) {
    uint64_t least = kWorst;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        const uint64_t key = key_of(x[i], static_cast<uint32_t>(i));
        if (key < least && (any || key > above)) least = key;
    }
    return block_least(least, memory);
}

/** One step of a bitonic sort: pairs that lie `step` apart are ordered, ascending in every other run. `first`: the place of keys[0] among all. */
__device__ inline void sort_step(uint64_t* keys, size_t n, size_t first, size_t run, size_t step) {
    for (size_t pair = threadIdx.x; pair < n / 2; pair += blockDim.x) {
        const size_t i = 2 * pair - (pair & (step - 1)), other = i + step;
        const uint64_t a = keys[i], b = keys[other];
        if ((a > b) == (((first + i) & run) == 0)) {
            keys[i] = b;
            keys[other] = a;
        }
    }
    __syncthreads();
}

/** The steps of runs from `least` to `most` that stay within n keys, in shared memory. */
__device__ inline void sort_tile(uint64_t* keys, size_t n, size_t first, size_t least, size_t most, uint64_t* tile) {
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) tile[i] = keys[first + i];
    __syncthreads();
    for (size_t run = least; run <= most; run *= 2) {
        for (size_t step = (run < n ? run : n) / 2; step > 0; step /= 2) sort_step(tile, n, first, run, step);
    }
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) keys[first + i] = tile[i];
    __syncthreads();
}

/** Ascending, by the whole block; n is a power of two. */
__device__ inline void sort_keys(uint64_t* keys, size_t n, uint64_t* tile) {
    const size_t part = n < kTile ? n : kTile;
    for (size_t first = 0; first < n; first += part) sort_tile(keys, part, first, 2, part, tile);
    for (size_t run = 2 * part; run <= n; run *= 2) {
        for (size_t step = run / 2; step >= part; step /= 2) sort_step(keys, n, 0, run, step);
        for (size_t first = 0; first < n; first += part) sort_tile(keys, part, first, run, run, tile);
    }
}

/** How many of the sorted candidates top-p and min-p keep, and which of them the number in [0, 1) draws. By one thread. */
__device__ inline size_t draw(const SampleRow& wish, const float* p, size_t count) {
    if (wish.top_p < 1) {
        float sum = 0;
        size_t kept = 0;
        while (kept < count && sum < wish.top_p) sum = sum + p[kept++];
        count = kept > 1 ? kept : 1;
    }
    if (wish.min_p > 0) {
        const float least = wish.min_p * p[0];
        while (count > 1 && p[count - 1] < least) count--;
    }
    float total = 0;
    for (size_t i = 0; i < count; i++) total = total + p[i];
    const float target = wish.uniform * total;
    float sum = 0;
    size_t chosen = 0;
    for (; chosen + 1 < count; chosen++) {
        sum = sum + p[chosen];
        if (target < sum) break;
    }
    return chosen;
}

__device__ inline void report(const SampleRow& wish, const float* logits, size_t vocab, float* p, SampleOutcome& out, Memory& memory) {
    const float most = block_max(logits, vocab, memory.softmax);
    for (size_t i = threadIdx.x; i < vocab; i += blockDim.x) p[i] = logits[i];
    __syncthreads();
    const float sum = block_exp_and_sum(p, vocab, most, memory.softmax);
    if (threadIdx.x == 0) {
        out.token_logit = logits[out.token];
        out.sum = sum;
    }
    uint64_t last = 0;
    for (size_t i = 0; i < vocab && i < static_cast<size_t>(wish.top_logprobs > 1 ? wish.top_logprobs : 1); i++) {
        last = best_of(logits, vocab, last, i == 0, memory);
        const uint32_t id = static_cast<uint32_t>(last);
        if (threadIdx.x != 0) continue;
        if (i == 0) out.best_logit = logits[id];
        out.top_ids[i] = static_cast<int32_t>(id);
        out.top_logits[i] = logits[id];
    }
}

__global__ void __launch_bounds__(kMostThreads) sample_kernel(SampleCall c, size_t padded) {
    Memory& memory = *block_memory<Memory>();
    auto* const tile = reinterpret_cast<uint64_t*>(&memory + 1);
    const size_t row = c.row_of ? c.row_of[blockIdx.x] : blockIdx.x, vocab = c.vocab;
    const float* logits = c.logits + row * vocab;
    float *adjusted = c.adjusted + blockIdx.x * vocab, *p = c.probabilities + blockIdx.x * vocab;
    uint64_t* keys = c.keys + blockIdx.x * padded;
    const SampleRow wish = c.wishes[blockIdx.x];
    SampleOutcome& out = c.out[blockIdx.x];

    uint64_t bad = kWorst;
    for (size_t i = threadIdx.x; i < vocab; i += blockDim.x) {
        adjusted[i] = logits[i];
        if (!finite(logits[i]) && i < bad) bad = i;
    }
    bad = block_least(bad, memory);
    if (threadIdx.x == 0) out.not_finite = static_cast<uint32_t>(bad);
    if (bad != kWorst) return;  // the whole block
    for (size_t i = threadIdx.x; i < wish.recent; i += blockDim.x) {
        float& logit = adjusted[c.ids[wish.first_recent + i]];
        logit = penalised(logit, wish.penalty);
    }
    __syncthreads();
    for (size_t i = threadIdx.x; i < wish.banned; i += blockDim.x) adjusted[c.ids[wish.first_banned + i]] = -INFINITY;
    const auto* allowed = reinterpret_cast<const uint32_t*>(c.ids) + wish.first_allowed;
    for (size_t i = threadIdx.x; wish.allowed > 0 && i < vocab; i += blockDim.x) {
        if (!has_bit(allowed, wish.allowed, i)) adjusted[i] = -INFINITY;
    }
    __syncthreads();

    const uint64_t first = best_of(adjusted, vocab, 0, true, memory);
    const float best = adjusted[static_cast<uint32_t>(first)];
    if (threadIdx.x == 0) out.token = best == -INFINITY ? -1 : static_cast<int32_t>(static_cast<uint32_t>(first));
    if (best == -INFINITY) return;  // the whole block

    if (wish.temperature != 0) {
        unsigned own = 0;
        for (size_t i = threadIdx.x; i < padded; i += blockDim.x) keys[i] = i < vocab ? key_of(adjusted[i], static_cast<uint32_t>(i)) : kWorst;
        for (size_t i = threadIdx.x; i < vocab; i += blockDim.x) own += adjusted[i] != -INFINITY;
        const int64_t of_warp = warp_sum(own);
        if (threadIdx.x % kWarp == 0) memory.count[threadIdx.x / kWarp] = static_cast<unsigned>(of_warp);
        __syncthreads();
        size_t count = 0;  // of what may be chosen
        for (unsigned warp = 0; warp < blockDim.x / kWarp; warp++) count += memory.count[warp];
        sort_keys(keys, padded, tile);
        if (wish.top_k > 0 && static_cast<size_t>(wish.top_k) < count) count = static_cast<size_t>(wish.top_k);
        for (size_t i = threadIdx.x; i < count; i += blockDim.x) p[i] = (adjusted[static_cast<uint32_t>(keys[i])] - best) / wish.temperature;
        __syncthreads();
        block_softmax(p, count, memory.softmax);
        if (threadIdx.x == 0) out.token = static_cast<int32_t>(static_cast<uint32_t>(keys[draw(wish, p, count)]));
    }
    __syncthreads();
    if (wish.top_logprobs >= 0) report(wish, logits, vocab, p, out, memory);
}

}  // namespace

Status sample(Stream& stream, const SampleCall& c) {
    const size_t padded = sort_size(c.vocab), shared = sizeof(Memory) + std::min(padded, kTile) * sizeof(uint64_t);
    const auto threads = static_cast<unsigned>(std::clamp<size_t>(padded / 4, kLeastThreads, kMostThreads));
    return launch("sample", stream, {c.rows}, threads, shared, sample_kernel, c, padded);
}

SampleRow describe_sample(const SamplingParams& params, uint64_t position, size_t vocab, std::vector<int32_t>& ids) {
    SampleRow row = {params.temperature, params.top_p, params.min_p, params.repetition_penalty, uniform_at(params.seed, position), params.top_k, params.top_logprobs, 0, 0, 0, 0, 0, 0};
    const auto append = [&](std::vector<int32_t> list, uint32_t& first, uint32_t& count) {
        std::sort(list.begin(), list.end());
        list.erase(std::unique(list.begin(), list.end()), list.end());
        first = static_cast<uint32_t>(ids.size());
        for (int32_t id : list) {
            if (id >= 0 && static_cast<size_t>(id) < vocab) ids.push_back(id);
        }
        count = static_cast<uint32_t>(ids.size()) - first;
    };
    if (params.repetition_penalty != 1) append(params.recent, row.first_recent, row.recent);
    append(params.banned, row.first_banned, row.banned);
    row.first_allowed = static_cast<uint32_t>(ids.size());
    row.allowed = static_cast<uint32_t>(params.allowed.size());
    for (uint32_t word : params.allowed) ids.push_back(static_cast<int32_t>(word));
    return row;
}

Status read_sample(const SampleOutcome& outcome, const SamplingParams& params, uint64_t position, size_t vocab, Sampled& out) {
    if (outcome.not_finite != UINT32_MAX) return logit_not_finite(outcome.not_finite, position);
    if (outcome.token < 0) return every_token_banned();
    out.token = outcome.token;
    if (params.top_logprobs < 0) return {};
    const float best_probability = 1.0f / outcome.sum;  // exp(0) is 1
    out.has_logprob = true;
    out.logprob = log_probability(outcome.token_logit, outcome.best_logit, best_probability);
    for (size_t i = 0; i < vocab && i < static_cast<size_t>(params.top_logprobs); i++) {
        out.top_ids.push_back(outcome.top_ids[i]);
        out.top_logprobs.push_back(log_probability(outcome.top_logits[i], outcome.best_logit, best_probability));
    }
    return {};
}

}  // namespace cuda
}  // namespace tmoe
