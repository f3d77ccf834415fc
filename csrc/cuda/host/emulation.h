// CUDA's words for a host build: blocks one after another, the threads of a block as fibres that change at barriers. For tests alone:
// it checks kernels where there is no GPU. Blocks have one dimension. A kernel that hangs, or leaves threads behind a barrier, is a fault.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define threadIdx (::tmoe::cuda::host::thread_index)
#define blockIdx (::tmoe::cuda::host::block_index)
#define blockDim (::tmoe::cuda::host::block_size)
#define gridDim (::tmoe::cuda::host::grid_size)

namespace tmoe {
namespace cuda {
namespace host {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};
extern Index thread_index, block_index, block_size, grid_size;

/**
 * In which order blocks run, and a block's threads between two barriers; a kernel without races gives the same with any. Shuffled: by chance, drawn
 * anew from the seed for every grid and after every barrier.
 */
enum class Order { Ascending, Descending, Shuffled };
void set_order(Order order, uint64_t seed = 1);

/** Runs body once per thread of the grid. Null, or what went wrong in words. Not to be called by two threads at once. */
const char* run(Index grid, unsigned threads, size_t shared_bytes, void (*body)(void*), void* context);

unsigned char* shared_memory();
void block_barrier();
void warp_barrier();
/** Eight words that the other lanes of the warp can read between two warp barriers. */
uint32_t* lane_words(unsigned lane);

/** What every lane of the warp gives goes to the lane that asks for it. */
template <class T> T exchange(T value, unsigned from) {
    memcpy(lane_words(thread_index.x % 32), &value, sizeof value);
    warp_barrier();
    T other;
    memcpy(&other, lane_words(from), sizeof other);
    warp_barrier();
    return other;
}

}  // namespace host

template <class T> inline T* block_memory() { return reinterpret_cast<T*>(host::shared_memory()); }

inline int dot4(uint32_t a, uint32_t b, int acc) {
    for (int i = 0; i < 32; i += 8) acc += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
    return acc;
}

/** The C twins of mma.sync: every lane reads the fragments of the others and sums its own four elements. `words`: of A per row, 2 or 4 of all. */
template <size_t words> inline void mma_twin(int (&c)[4], const uint32_t* a, const uint32_t* b) {
    const unsigned lane = host::thread_index.x % 32;
    uint32_t* own = host::lane_words(lane);
    memcpy(own, a, words * 4);
    memcpy(own + 4, b, words * 2);
    host::warp_barrier();
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4, column = lane % 4 * 2 + i % 2;
        for (unsigned part = 0; part < words / 2; part++) {
            for (unsigned q = 0; q < 4; q++) {
                const uint32_t* left = host::lane_words(row * 4 + q);
                c[i] = dot4(left[2 * part + i / 2], host::lane_words(column * 4 + q)[4 + part], c[i]);
            }
        }
    }
    host::warp_barrier();
}
inline void mma_k32(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_twin<4>(c, a, b); }
inline void mma_k16(int (&c)[4], const uint32_t (&a)[2], uint32_t b) { mma_twin<2>(c, a, &b); }

}  // namespace cuda
}  // namespace tmoe

inline void __syncthreads() { tmoe::cuda::host::block_barrier(); }
inline void __syncwarp() { tmoe::cuda::host::warp_barrier(); }
template <class T> inline T __shfl_xor_sync(unsigned, T value, int mask) {
    return tmoe::cuda::host::exchange(value, (threadIdx.x % 32) ^ static_cast<unsigned>(mask));
}
template <class T> inline T atomicMin(T* at, T value) {
    const T old = *at;
    if (value < old) *at = value;
    return old;
}
