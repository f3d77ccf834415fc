// dispatch, combine and the all-to-all. dispatch: a block has one expert and counts its slots, then places them; combine: a block has one token.
#include "cuda/moe.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kThreads = 128;
constexpr size_t kMaxK = 256;

/** How many of the slots that this thread has (a run of them, so that order is kept) name the block's expert. */
__device__ inline unsigned own_slots(const DispatchArgs& a, size_t& first, size_t& last) {
    const size_t slots = a.tokens * a.k, share = (slots + kThreads - 1) / kThreads;
    first = threadIdx.x * share < slots ? threadIdx.x * share : slots;
    last = first + share < slots ? first + share : slots;
    unsigned count = 0;
    for (size_t slot = first; slot < last; slot++) count += a.ids[slot] == static_cast<int32_t>(blockIdx.x);
    return count;
}

/** The sum of the threads before this one. By the whole block. */
__device__ inline unsigned before(unsigned own, unsigned* shared) {
    shared[threadIdx.x] = own;
    __syncthreads();
    unsigned sum = 0;
    for (unsigned i = 0; i < threadIdx.x; i++) sum += shared[i];
    return sum;
}

__global__ void count_kernel(DispatchCall c) {
    unsigned* shared = block_memory<unsigned>();
    size_t first, last;
    const unsigned own = own_slots(c.args, first, last), sum = before(own, shared);
    if (threadIdx.x == kThreads - 1) c.counts[blockIdx.x] = sum + own;
}

__global__ void place_kernel(DispatchCall c) {
    unsigned* shared = block_memory<unsigned>();
    const DispatchArgs& a = c.args;
    size_t first, last;
    unsigned row = before(own_slots(a, first, last), shared);
    for (unsigned e = 0; e < blockIdx.x; e++) row += c.counts[e];
    if (threadIdx.x == 0) a.offsets[blockIdx.x] = row;
    if (threadIdx.x == 0 && blockIdx.x + 1 == a.experts) a.offsets[a.experts] = row + c.counts[blockIdx.x];
    for (size_t slot = first; slot < last; slot++) {
        if (a.ids[slot] != static_cast<int32_t>(blockIdx.x)) continue;
        a.slots[row] = static_cast<uint32_t>(slot);
        a.rows[slot] = row++;
    }
}

struct CombineOrder {
    const float* values[kMaxK];
    float weights[kMaxK];
};

__global__ void combine_kernel(CombineArgs a) {
    CombineOrder& order = *block_memory<CombineOrder>();
    const size_t first = blockIdx.x * a.k;
    for (size_t s = threadIdx.x; s < a.k; s += kThreads) {
        size_t rank = 0;  // ids of one token differ
        for (size_t other = 0; other < a.k; other++) rank += a.ids[first + other] < a.ids[first + s];
        order.values[rank] = a.values + a.rows[first + s] * a.width;
        order.weights[rank] = a.weights[first + s];
    }
    __syncthreads();
    for (size_t i = threadIdx.x; i < a.width; i += kThreads) {
        float sum = 0;
        for (size_t s = 0; s < a.k; s++) sum = fmaf(order.weights[s], order.values[s][i], sum);
        float& out = a.out[blockIdx.x * a.width + i];
        out = a.add ? out + sum : sum;
    }
}

__global__ void pack_kernel(AllToAllArgs a) {
    const float* from = a.from + a.slots[blockIdx.x] / a.k * a.width;
    for (size_t i = threadIdx.x; i < a.width; i += kThreads) a.to[blockIdx.x * a.width + i] = from[i];
}

__global__ void unpack_kernel(AllToAllArgs a) {
    float* to = a.to + static_cast<size_t>(a.slots[blockIdx.x]) * a.width;
    for (size_t i = threadIdx.x; i < a.width; i += kThreads) to[i] = a.from[blockIdx.x * a.width + i];
}

}  // namespace

Status dispatch(Stream& stream, const DispatchCall& c) {
    TMOE_RETURN_IF_ERROR(launch("dispatch", stream, {c.args.experts}, kThreads, kThreads * sizeof(unsigned), count_kernel, c));
    return launch("dispatch", stream, {c.args.experts}, kThreads, kThreads * sizeof(unsigned), place_kernel, c);
}

Status combine(Stream& stream, const CombineArgs& a) { return launch("combine", stream, {a.tokens}, kThreads, sizeof(CombineOrder), combine_kernel, a); }

Status all_to_all_pack(Stream& stream, const AllToAllArgs& a) { return launch("all_to_all_pack", stream, {a.rows}, kThreads, 0, pack_kernel, a); }

Status all_to_all_unpack(Stream& stream, const AllToAllArgs& a) { return launch("all_to_all_unpack", stream, {a.rows}, kThreads, 0, unpack_kernel, a); }

}  // namespace cuda
}  // namespace tmoe
