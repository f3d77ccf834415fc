// The table of CPU kernels: what each instruction set provides. Every kernel is written once (cpu/<op>_simd.h) over a
// 16-lane vector type and instantiated by isa_<name>.cpp inside its own target region, with the same bits everywhere.
// The op-level functions of cpu/<op>.h call these through a `Context`.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/status.h"
#include "core/threads.h"
#include "quant/types.h"

namespace tmoe {

inline constexpr size_t kLanes = 16;       ///< rows interleaved in a packed matrix, lanes of every reduction
inline constexpr size_t kActBlock = 32;    ///< activations quantised together
inline constexpr size_t kKvPage = 64;      ///< positions in one page of a KV cache (a multiple of kLanes)
inline constexpr size_t kMaximaBlock = 256;   ///< floats that one maximum stands for
inline constexpr size_t kAttendRows = 8;   ///< query rows that share one pass over the keys

enum class Isa : uint32_t { Scalar, Avx2, Avx512, Neon };
const char* isa_name(Isa isa);

enum class KvType : uint32_t { F16, F32 };
inline size_t kv_bytes(KvType type) { return type == KvType::F16 ? 2 : 4; }

enum class RopePairs : uint32_t { Neox, Interleaved };

/** A matrix in the kernels' layout (quant/repack.h): groups of 16 interleaved rows, columns walked in order. */
struct MatrixView {
    DType type = DType::F32;
    size_t rows = 0, columns = 0;
    const uint8_t* packed = nullptr;
    const float* bias = nullptr;      ///< [rows], added once to each finished product (before what `add` adds it to); null = none
};

/** 32 quantised activations with all that a product needs of them side by side, so that a row has one address. */
struct ActivationBlock {
    int8_t q[kActBlock];
    float scale;
    int32_t sum;        ///< -8 Σq
    int32_t sum16[2];   ///< -32 Σq of each half
};

/** Rows of activations: floats, and (where the matrix is quantised) int8 in blocks. */
struct ActivationView {
    size_t columns = 0;
    const float* values = nullptr;             ///< [rows][value_stride]
    size_t value_stride = 0;
    const ActivationBlock* blocks = nullptr;   ///< [rows][columns / 32]
};

/** The groups of a matrix's rows that are multiplied, with which rows of activations, and where their products go. */
struct ProductPart {
    size_t count;                      ///< rows of activations …
    const uint32_t* gather;            ///< … these; null = the first
    float* out;                        ///< [count][out_stride], from the first row of `first_group` on
    size_t out_stride;
    bool add;                          ///< to what is there
    size_t first_group, last_group;
    const uint8_t* then = nullptr;     ///< weights that the thread reads after these; null = unknown
};

/** Up to kAttendRows query rows of one KV head over that head's cache. */
struct AttendTile {
    size_t rows;
    const float* q[kAttendRows];        ///< [head_dim]
    size_t first[kAttendRows], visible[kAttendRows];   ///< positions first … visible-1 are attended, at least 1, both ascending over rows
    const float* sink[kAttendRows];     ///< of the row's head: a score that has no value; null = none
    float* out[kAttendRows];            ///< [value_dim]
    uint8_t* const* pages;              ///< one per kKvPage positions
    size_t key_offset, value_offset;    ///< of this layer and head, bytes inside a page
    KvType type;
    size_t head_dim, value_dim;
    float scale;
    float* scores;                      ///< scratch: rows × (visible rounded up to 16) floats
    size_t score_stride;
    bool alone;                         ///< no other tile reads these pages now: they come from memory, not from a cache
    const uint8_t* then;                ///< what the thread reads after this tile; null = unknown
};

struct Kernels {
    Isa isa;
    /** Row of n (multiple of 32) floats to int8. False where a value is not finite (its block becomes zeros). */
    bool (*quantise_row)(const float* x, size_t n, ActivationBlock* out);
    /** out[i][row] (+)= W · activations[gather ? gather[i] : i]. */
    void (*matmul)(const MatrixView& w, const ActivationView& a, const ProductPart& part);
    /** out = x · w / rms(x), n floats. False where the sum of squares is not finite. */
    bool (*rms_norm)(const float* x, const float* weight, size_t n, float epsilon, float* out);
    /** Rotates each of `heads` heads in place by the angles of one position: cos, sin [rotary_dim / 2]. */
    void (*rope)(float* x, size_t heads, size_t head_dim, size_t rotary_dim, const float* cos, const float* sin,
                 RopePairs pairs);
    /** Rounds k [head_dim] and v [value_dim] into the cache at a position of one head. */
    void (*kv_write)(uint8_t* page, size_t key_offset, size_t value_offset, KvType type, size_t slot, const float* k,
                     size_t head_dim, const float* v, size_t value_dim);
    void (*attend)(const AttendTile& tile);
    /** x as 24-bit integers: q[i] = rne(x[i] · 2^(23-e)); returns e, the least with |x| < 2^e (at least -103). */
    int (*quantise_state)(const float* x, size_t n, int32_t* q);
    /** Exact sum of products of two rows of 24-bit integers, n ≤ 65536. */
    int64_t (*dot_i64)(const int32_t* a, const int32_t* b, size_t n);
    /** In place; sums by lanes. n ≥ 1, finite. */
    void (*softmax)(float* x, size_t n);
    /** out[b] = the greatest of x[b · kMaximaBlock …], one for each block or part of one. False where a value is not finite. */
    bool (*block_maxima)(const float* x, size_t n, float* out);
    /** In place: 1 / (1 + e^-x). */
    void (*sigmoid)(float* x, size_t n);
    /** out[i] = silu(gate[i]) · up[i]. */
    void (*silu_mul)(const float* gate, const float* up, size_t n, float* out);
    /** ExpertActivation::ClampedSwiglu of gate[i] and up[i] (cpu/expert_matmul.h). */
    void (*clamped_swiglu)(const float* gate, const float* up, size_t n, float* out);
    /** out[i] = sigmoid(gate) · x[i]. */
    void (*sigmoid_scale)(float gate, const float* x, size_t n, float* out);
    /** out[i] = (add ? out[i] : 0) + Σ weights[s] · rows[s][i], one fma chain in slot order that starts at zero. */
    void (*combine_row)(const float* const* rows, const float* weights, size_t slots, size_t n, bool add, float* out);
};

/** Instruction sets that this CPU and build have, slowest first. */
size_t available_isas(Isa out[4]);
/** The kernels of one; null where it is not available here. */
const Kernels* find_kernels(Isa isa);
/** Fastest available, or the one that the environment variable TIERED_MOE_ISA names. */
Status resolve_isa(const char* name /* "auto" or a name */, Isa& out);

/** Features looked for on this CPU, for reports. */
struct CpuFeature {
    const char* name;
    bool present;
};
size_t cpu_features(const CpuFeature*& out);

/** Where an op runs: kernels, threads and the flag that stops it. */
struct Context {
    const Kernels& kernels;
    ThreadPool& pool;
    const std::atomic<bool>* cancel = nullptr;
};

}  // namespace tmoe
