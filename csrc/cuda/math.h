// The elementwise functions of the arithmetic contract on the device, step by step as cpu/math_ref.h has them, and softmax by a block.
#pragma once
#include <cmath>

#include "cuda/device.h"

namespace tmoe {
namespace cuda {

/** 2^e for -126 ≤ e ≤ 127. */
__device__ inline float power_of_two(int e) { return bits_float(static_cast<uint32_t>(e + 127) << 23); }

/** e^x: x = n ln 2 + r, Taylor to r^7, times 2^n in two factors. */
__device__ inline float exp_of(float x) {
    x = x < 89.0f ? x : 89.0f;
    x = x > -104.0f ? x : -104.0f;
    const float n = rintf(x * 1.44269504f);
    float r = fmaf(n, -0.693359375f, x);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.0f / 5040;
    p = fmaf(p, r, 1.0f / 720);
    p = fmaf(p, r, 1.0f / 120);
    p = fmaf(p, r, 1.0f / 24);
    p = fmaf(p, r, 1.0f / 6);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    const int steps = static_cast<int>(n), half = steps >> 1;
    return p * power_of_two(half) * power_of_two(steps - half);
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + exp_of(0.0f - x)); }
__device__ inline float silu(float x) { return x / (1.0f + exp_of(0.0f - x)); }

/** ExpertActivation::ClampedSwiglu (cpu/expert_matmul.h), step by step as on the CPU. */
__device__ inline float clamped_swiglu(float gate, float up) {
    gate = 7.0f < gate ? 7.0f : gate;
    up = -7.0f > up ? -7.0f : up;
    up = 7.0f < up ? 7.0f : up;
    return gate / (1.0f + exp_of(gate * -1.702f)) * (up + 1.0f);
}

/** Shared memory of the two functions below. */
struct SoftmaxScratch {
    float warp_most[32];
    float sum;
};

/** The largest of x [n], by the whole block; -infinity where n is 0. */
__device__ inline float block_max(const float* x, size_t n, SoftmaxScratch& scratch) {
    float most = -INFINITY;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) most = x[i] > most ? x[i] : most;
    for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(kAllLanes, most, step);
        most = other > most ? other : most;
    }
    if (threadIdx.x % kWarp == 0) scratch.warp_most[threadIdx.x / kWarp] = most;
    __syncthreads();
    for (unsigned warp = 0; warp < blockDim.x / kWarp; warp++) most = scratch.warp_most[warp] > most ? scratch.warp_most[warp] : most;
    __syncthreads();
    return most;
}

/** From `first` on: x[i] = exp(x[i] - most); returns their sum by lanes (index mod 16, then the tree 8-4-2-1). By the whole block; ends with a barrier. */
__device__ inline float block_exp_and_sum(float* x, size_t n, float most, SoftmaxScratch& scratch, size_t first = 0) {
    for (size_t i = first + threadIdx.x; i < n; i += blockDim.x) x[i] = exp_of(x[i] - most);
    __syncthreads();
    if (threadIdx.x < kWarp) {  // both halves of the warp do the same
        float lane = 0;
        for (size_t i = first / 16 * 16 + threadIdx.x % 16; i < n; i += 16) {
            if (i >= first) lane = lane + x[i];
        }
        lane = tree_sum(lane);
        if (threadIdx.x == 0) scratch.sum = lane;
    }
    __syncthreads();
    return scratch.sum;
}

/** In place, by the whole block; ends with a barrier. */
__device__ inline void block_softmax(float* x, size_t n, SoftmaxScratch& scratch) {
    const float sum = block_exp_and_sum(x, n, block_max(x, n, scratch), scratch);
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) x[i] = x[i] / sum;
    __syncthreads();
}

}  // namespace cuda
}  // namespace tmoe
