// route, every form: a block has one token. Exact integer scores (a warp has one expert), the rank of each by counting those before it in
// the seeded total order, weights by softmax. Hierarchical routes make the same choice at each level.
#include "cpu/route_order.h"
#include "cuda/math.h"
#include "cuda/moe.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kThreads = 128;

struct Choice {
    uint32_t row;
    float probability;
};

struct Memory {
    SoftmaxScratch softmax;
    uint32_t most[kThreads / kWarp];
    Choice tiers[kMaxActive], groups[kMaxActive], experts[kMaxActive];
};

/** Integer rounding to nearest even; |x| ≤ 2^23 here. */
__device__ inline int32_t rounded(float x) { return static_cast<int32_t>(rintf(x)); }

/** The token's state as 24-bit integers; returns its exponent. By the whole block. */
__device__ inline int quantise_state(const float* x, size_t n, int32_t* q, Memory& memory) {
    uint32_t most = 0;
    for (size_t i = threadIdx.x; i < n; i += kThreads) {
        const uint32_t bits = float_bits(x[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    most = warp_max(most);
    if (threadIdx.x % kWarp == 0) memory.most[threadIdx.x / kWarp] = most;
    __syncthreads();
    for (unsigned warp = 0; warp < kThreads / kWarp; warp++) most = memory.most[warp] > most ? memory.most[warp] : most;
    int exponent = static_cast<int>(most >> 23) - 126;  // |x| < 2^exponent
    if (exponent < -103) exponent = -103;
    const bool finite = most < kInfinity;
    const float scale = finite ? power_of_two(23 - exponent) : 0.0f;
    for (size_t i = threadIdx.x; i < n; i += kThreads) q[i] = finite ? rounded(x[i] * scale) : 0;
    __syncthreads();
    return exponent;
}

/** One level's question: the k best of a router's rows [first, last). */
struct Question {
    RouterView router;
    size_t base;          ///< where the router begins in the stack of all routers
    size_t first, last, k;
    bool over_chosen;     ///< softmax over the chosen, in rank order; else over the enabled
};

class TokenRoute {
  public:
    __device__ TokenRoute(const RouteArgs& a, const HserRouting& h, size_t rows, Memory& memory)
        : a_(a), h_(h), memory_(memory), token_(blockIdx.x), mask_(a.masks ? a.masks[blockIdx.x] : a.enabled), state_(a.states24 + blockIdx.x * a.router.width),
          scores_(a.scores + blockIdx.x * rows), probabilities_(a.probabilities + blockIdx.x * rows) {}

    __device__ void run(size_t rows) {
        for (size_t i = threadIdx.x; i < rows; i += kThreads) scores_[i] = INT64_MIN;
        exponent_ = quantise_state(a_.states + token_ * a_.router.width, a_.router.width, state_, memory_);
        if (a_.form == RouteForm::Hser) {
            levels();
        } else {
            choose({a_.router, 0, 0, a_.router.experts, a_.k, a_.form == RouteForm::TopkSoftmax}, [&](size_t e) { return mask_[e] != 0; }, memory_.experts);
            for (size_t s = threadIdx.x; s < a_.k; s += kThreads) put(s, memory_.experts[s].row, memory_.experts[s].probability);
        }
        __syncthreads();
        if (!a_.normalise) return;
        float* weights = a_.weights + token_ * a_.k;
        float sum = 0;
        for (size_t s = 0; s < a_.k; s++) sum = sum + weights[s];
        __syncthreads();
        for (size_t s = threadIdx.x; s < a_.k; s += kThreads) weights[s] = weights[s] / sum;
    }

  private:
    __device__ void put(size_t slot, uint32_t expert, float weight) {
        a_.ids[token_ * a_.k + slot] = static_cast<int32_t>(expert);
        a_.weights[token_ * a_.k + slot] = weight;
    }

    __device__ void levels() {
        const size_t experts = a_.router.experts, groups = h_.groups.experts;
        choose({h_.tiers, experts + groups, 0, h_.tiers.experts, h_.k_tier, false}, [&](size_t t) { return any_group(t); }, memory_.tiers);
        size_t slot = 0;
        for (size_t t = 0; t < h_.k_tier; t++) {
            const Choice tier = memory_.tiers[t];
            choose({h_.groups, experts, h_.tier_groups[tier.row], h_.tier_groups[tier.row + 1], h_.k_group, false}, [&](size_t g) { return any_expert(g); }, memory_.groups);
            for (size_t g = 0; g < h_.k_group; g++, slot += h_.k_expert) {
                const Choice group = memory_.groups[g];
                const float both = tier.probability * group.probability;
                choose({a_.router, 0, h_.group_experts[group.row], h_.group_experts[group.row + 1], h_.k_expert, false}, [&](size_t e) { return mask_[e] != 0; },
                       memory_.experts);
                for (size_t s = threadIdx.x; s < h_.k_expert; s += kThreads) put(slot + s, memory_.experts[s].row, both * memory_.experts[s].probability);
                __syncthreads();
            }
        }
    }

    __device__ bool any_expert(size_t group) const {
        for (size_t e = h_.group_experts[group]; e < h_.group_experts[group + 1]; e++) {
            if (mask_[e]) return true;
        }
        return false;
    }
    __device__ bool any_group(size_t tier) const {
        for (size_t g = h_.tier_groups[tier]; g < h_.tier_groups[tier + 1]; g++) {
            if (any_expert(g)) return true;
        }
        return false;
    }

    /** True where row p of the stack stands before row q in the total order. */
    __device__ bool before(size_t p, size_t q) const {
        if (scores_[p] != scores_[q]) return scores_[p] > scores_[q];
        const uint32_t position = a_.positions[token_];
        const uint32_t one = tie_hash(a_.seed, a_.layer, position, static_cast<uint32_t>(p)), other = tie_hash(a_.seed, a_.layer, position, static_cast<uint32_t>(q));
        return one != other ? one < other : p < q;
    }

    /** By the whole block; ends with a barrier. `enabled` is asked only where there is a mask. */
    template <class Enabled> __device__ void choose(const Question& question, Enabled enabled, Choice* chosen) {
        const RouterView& router = question.router;
        const unsigned lane = threadIdx.x % kWarp;
        for (size_t row = question.first + threadIdx.x / kWarp; row < question.last; row += kThreads / kWarp) {
            const int32_t* weights = router.weights + row * router.width;
            int64_t sum = 0;
            for (size_t c = lane; c < router.width; c += kWarp) sum += static_cast<int64_t>(state_[c]) * weights[c];
            sum = warp_sum(sum);
            if (lane == 0) scores_[question.base + row] = sum;
        }
        __syncthreads();
        const int exponent = exponent_ + router.exponent - 46;
        size_t count = 0;  // of the enabled
        for (size_t row = question.first; row < question.last; row++) count += !mask_ || enabled(row);
        for (size_t row = question.first + threadIdx.x; row < question.last; row += kThreads) {
            if (mask_ && !enabled(row)) continue;
            size_t place = 0, rank = 0;
            for (size_t other = question.first; other < question.last; other++) {
                if (mask_ && !enabled(other)) continue;
                place += other < row;
                rank += other != row && before(question.base + other, question.base + row);
            }
            const float logit = logit_of(scores_[question.base + row], exponent);
            if (rank < question.k) chosen[rank] = {static_cast<uint32_t>(row), 0};
            if (!question.over_chosen) {
                probabilities_[place] = logit;
            } else if (rank < question.k) {
                probabilities_[rank] = logit;
            }
        }
        __syncthreads();
        block_softmax(probabilities_, question.over_chosen ? question.k : count, memory_.softmax);
        for (size_t s = threadIdx.x; s < question.k; s += kThreads) {
            size_t place = s;
            if (!question.over_chosen) {
                place = 0;
                for (size_t row = question.first; row < chosen[s].row; row++) place += !mask_ || enabled(row);
            }
            chosen[s].probability = probabilities_[place];
        }
        __syncthreads();
    }

    const RouteArgs& a_;
    const HserRouting& h_;
    Memory& memory_;
    size_t token_;
    const uint8_t* mask_;
    int32_t* state_;
    int64_t* scores_;
    float* probabilities_;
    int exponent_ = 0;
};

__global__ void route_kernel(RouteArgs a, HserRouting h, size_t rows) { TokenRoute(a, h, rows, *block_memory<Memory>()).run(rows); }

}  // namespace

Status route(Stream& stream, const RouteArgs& a, const HserRouting& h) {
    const size_t rows = a.router.experts + (a.form == RouteForm::Hser ? h.groups.experts + h.tiers.experts : 0);
    return launch("route", stream, {a.tokens}, kThreads, sizeof(Memory), route_kernel, a, h, rows);
}

}  // namespace cuda
}  // namespace tmoe
