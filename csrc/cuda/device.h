// The words that kernels are written in. nvcc gives them their meaning; for a host build the emulation of blocks and threads does.
// Kernels use one-dimensional blocks, `block_memory` for shared memory, and of the device's own instructions only what stands here.
#pragma once
#if defined(__CUDACC__)
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "cuda/host/emulation.h"
#endif
#include <cstddef>
#include <cstdint>

#include "quant/blocks.h"

namespace tmoe {
namespace cuda {

inline constexpr unsigned kWarp = 32, kAllLanes = 0xffffffffu;

inline constexpr uint32_t kInfinity = 0x7f800000u;   ///< bits of infinity; those of magnitudes that are finite are below
__device__ inline bool finite(float x) { return (float_bits(x) & kInfinity) != kInfinity; }

/** Exact, as quant/blocks.h has it. */
__device__ inline float half_to_float(uint16_t half) {
#if defined(__CUDACC__)
    return __half2float(__ushort_as_half(half));
#else
    return f16_to_f32(half);
#endif
}

#if defined(__CUDACC__)
/** The block's shared memory, as large as the launch said, 16-byte aligned; what it holds at first is undefined. */
template <class T> __device__ inline T* block_memory() {
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    return reinterpret_cast<T*>(shared_bytes);
}

/** acc + the dot product of four int8 each. */
__device__ inline int dot4(uint32_t a, uint32_t b, int acc) {
#if __CUDA_ARCH__ >= 610
    return __dp4a(static_cast<int>(a), static_cast<int>(b), acc);
#else
    for (int i = 0; i < 32; i += 8) acc += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
    return acc;
#endif
}

/**
 * c += A · B for the whole warp: A 16 × 32 int8, B 32 × 8 int8, c 16 × 8 int32. Fragments as PTX orders them (mma.sync.m16n8k32): with
 * g = lane / 4 and q = lane % 4, a = {A[g][4q…], A[g + 8][4q…], A[g][16 + 4q…], A[g + 8][16 + 4q…]}, b = {B[4q…][g], B[16 + 4q…][g]},
 * c = {C[g][2q], C[g][2q + 1], C[g + 8][2q], C[g + 8][2q + 1]}.
 */
__device__ inline void mma_k32(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/** The same with half as many columns (m16n8k16): a = {A[g][4q…], A[g + 8][4q…]}, b = B[4q…][g]. */
__device__ inline void mma_k16(int (&c)[4], const uint32_t (&a)[2], uint32_t b) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
#endif
}
#endif

/** The maximum over a warp; every lane gets it. */
__device__ inline uint32_t warp_max(uint32_t x) {
    for (int step = 16; step > 0; step /= 2) {
        const uint32_t other = __shfl_xor_sync(kAllLanes, x, step);
        x = other > x ? other : x;
    }
    return x;
}

/** Sums of integers: exact, so in any order. */
__device__ inline int64_t warp_sum(int64_t x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
    return x;
}
/** Over each half of the warp by itself. */
__device__ inline int half_warp_sum(int x) {
    for (int step = 8; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
    return x;
}

/** The contract's tree 8-4-2-1 over 16 lanes. Addition commutes, so every lane has lane 0's bits. */
__device__ inline float tree_sum(float x) {
    for (int step = 8; step > 0; step /= 2) x = x + __shfl_xor_sync(kAllLanes, x, step);
    return x;
}

}  // namespace cuda
}  // namespace tmoe
