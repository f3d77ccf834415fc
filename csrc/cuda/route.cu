// route, every form: a block has one token. Exact integer scores (a warp has one expert), the rank of each by counting those before it in
// the seeded total order, weights by softmax or sigmoid. Hierarchical routes make the same choice at each level.
#include "cpu/route_groups.h"
#include "cpu/route_order.h"
#include "cpu/route_score.h"
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
    int64_t group_scores[kMaxGroups];
    bool group_enabled[kMaxGroups], group_kept[kMaxGroups];
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
    RouteForm form;       ///< SoftmaxTopk: the enabled are weighed; otherwise the chosen, in rank order
};

class TokenRoute {
  public:
    __device__ TokenRoute(const RouteArgs& a, const HserRouting& h, size_t rows, Memory& memory)
        : a_(a), h_(h), memory_(memory), token_(blockIdx.x), mask_(a.masks ? a.masks[blockIdx.x] : a.enabled), state_(a.states24 + blockIdx.x * a.router.width),
          scores_(a.scores + blockIdx.x * rows), ranks_(a.ranks ? a.ranks + blockIdx.x * rows : scores_), probabilities_(a.probabilities + blockIdx.x * rows) {}

    __device__ void run(size_t rows) {
        for (size_t i = threadIdx.x; i < rows; i += kThreads) scores_[i] = INT64_MIN;
        exponent_ = quantise_state(a_.states + token_ * a_.router.width, a_.router.width, state_, memory_);
        if (a_.form == RouteForm::Hser) {
            levels();
        } else {
            choose({a_.router, 0, 0, a_.router.experts, a_.k, a_.form}, [&](size_t e) { return mask_[e] != 0; }, memory_.experts);
            for (size_t s = threadIdx.x; s < a_.k; s += kThreads) put(s, memory_.experts[s].row, memory_.experts[s].probability);
        }
        __syncthreads();
        if (!a_.normalise && a_.scale == 1) return;
        float* weights = a_.weights + token_ * a_.k;
        float sum = 0;
        for (size_t s = 0; s < a_.k; s++) sum = sum + weights[s];
        sum = sum + kLeastSum;
        __syncthreads();
        for (size_t s = threadIdx.x; s < a_.k; s += kThreads) weights[s] = (a_.normalise ? weights[s] / sum : weights[s]) * a_.scale;
    }

  private:
    __device__ void put(size_t slot, uint32_t expert, float weight) {
        a_.ids[token_ * a_.k + slot] = static_cast<int32_t>(expert);
        a_.weights[token_ * a_.k + slot] = weight;
    }

    __device__ void levels() {
        const size_t experts = a_.router.experts, groups = h_.groups.experts;
        choose({h_.tiers, experts + groups, 0, h_.tiers.experts, h_.k_tier, RouteForm::SoftmaxTopk}, [&](size_t t) { return any_group(t); }, memory_.tiers);
        size_t slot = 0;
        for (size_t t = 0; t < h_.k_tier; t++) {
            const Choice tier = memory_.tiers[t];
            choose({h_.groups, experts, h_.tier_groups[tier.row], h_.tier_groups[tier.row + 1], h_.k_group, RouteForm::SoftmaxTopk}, [&](size_t g) { return any_expert(g); }, memory_.groups);
            for (size_t g = 0; g < h_.k_group; g++, slot += h_.k_expert) {
                const Choice group = memory_.groups[g];
                const float both = tier.probability * group.probability;
                choose({a_.router, 0, h_.group_experts[group.row], h_.group_experts[group.row + 1], h_.k_expert, RouteForm::SoftmaxTopk}, [&](size_t e) { return mask_[e] != 0; },
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

    /** True where row p of the stack, which has score x, stands before row q, which has y, in the total order. */
    __device__ bool before(int64_t x, size_t p, int64_t y, size_t q) const {
        if (x != y) return x > y;
        const uint32_t position = a_.positions[token_];
        const uint32_t one = tie_hash(a_.seed, a_.layer, position, static_cast<uint32_t>(p)), other = tie_hash(a_.seed, a_.layer, position, static_cast<uint32_t>(q));
        return one != other ? one < other : p < q;
    }

    /** What experts are ranked by, where that is not their scores; by the whole block, and ends with a barrier. */
    __device__ void rank_experts() {
        for (size_t e = threadIdx.x; e < a_.router.experts; e += kThreads) {
            int64_t rank = a_.bias ? unit_.add(scores_[e], a_.bias[e]) : scores_[e];
            if (a_.ranks_by_sigmoid()) rank = sigmoid_q30(rank, unit_.exponent) + (a_.selection_bias ? a_.selection_bias[e] : 0);
            ranks_[e] = rank;
        }
        __syncthreads();
        if (a_.groups.count == 0) return;
        const size_t groups = a_.groups.count, size = a_.router.experts / groups, experts = a_.router.experts;
        for (size_t g = threadIdx.x; g < groups; g += kThreads) {
            int64_t best = INT64_MIN, second = INT64_MIN;
            for (size_t e = g * size; e < (g + 1) * size; e++) {
                if (mask_ && !mask_[e]) continue;
                const int64_t rank = ranks_[e], less = rank < best ? rank : best;
                best = rank > best ? rank : best;
                second = less > second ? less : second;
            }
            memory_.group_enabled[g] = best != INT64_MIN;
            memory_.group_scores[g] = a_.groups.score == GroupScore::Top2 && second != INT64_MIN ? best + second : best;
        }
        __syncthreads();
        for (size_t g = threadIdx.x; g < groups; g += kThreads) {
            size_t rank = 0;
            for (size_t other = 0; other < groups; other++) {
                rank += other != g && memory_.group_enabled[other] && before(memory_.group_scores[other], experts + other, memory_.group_scores[g], experts + g);
            }
            memory_.group_kept[g] = memory_.group_enabled[g] && rank < a_.groups.used;
        }
        __syncthreads();
    }

    /** Of an enabled expert: whether its group stays. */
    __device__ bool in_choice(size_t expert) const { return a_.groups.count == 0 || memory_.group_kept[expert / (a_.router.experts / a_.groups.count)]; }

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
        unit_ = a_.bias ? BiasUnit::of(exponent, a_.bias_exponent) : BiasUnit{exponent, 0, 0};
        if (ranks_ != scores_) rank_experts();
        const bool all = question.form == RouteForm::SoftmaxTopk;
        size_t count = 0;  // of the enabled
        for (size_t row = question.first; row < question.last; row++) count += !mask_ || enabled(row);
        for (size_t row = question.first + threadIdx.x; row < question.last; row += kThreads) {
            if (mask_ && !enabled(row)) continue;
            size_t place = 0, rank = 0;
            for (size_t other = question.first; other < question.last; other++) {
                if (mask_ && !enabled(other)) continue;
                place += other < row;
                const size_t p = question.base + other, q = question.base + row;
                rank += other != row && in_choice(other) && before(ranks_[p], p, ranks_[q], q);
            }
            const int64_t score = scores_[question.base + row];
            const float logit = logit_of(a_.bias ? unit_.add(score, a_.bias[row]) : score, unit_.exponent);
            const bool is_chosen = in_choice(row) && rank < question.k;
            if (is_chosen) chosen[rank] = {static_cast<uint32_t>(row), 0};
            if (all) {
                probabilities_[place] = logit;
            } else if (is_chosen) {
                probabilities_[rank] = question.form == RouteForm::Sigmoid ? sigmoid(logit) : logit;
            }
        }
        __syncthreads();
        if (question.form != RouteForm::Sigmoid) block_softmax(probabilities_, all ? count : question.k, memory_.softmax);
        for (size_t s = threadIdx.x; s < question.k; s += kThreads) {
            size_t place = s;
            if (all) {
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
    int64_t* ranks_;          ///< what rows are ordered by: their scores, or what `rank_experts` makes of these
    float* probabilities_;
    int exponent_ = 0;
    BiasUnit unit_ = {0, 0, 0};
};

__global__ void route_kernel(RouteArgs a, HserRouting h, size_t rows) { TokenRoute(a, h, rows, *block_memory<Memory>()).run(rows); }

}  // namespace

Status route(Stream& stream, const RouteArgs& a, const HserRouting& h) {
    const size_t rows = a.router.experts + (a.form == RouteForm::Hser ? h.groups.experts + h.tiers.experts : 0);
    return launch("route", stream, {a.tokens}, kThreads, sizeof(Memory), route_kernel, a, h, rows);
}

}  // namespace cuda
}  // namespace tmoe
