// attention: appends keys and values to a paged cache, then causal attention over it.
//
// Softmax attention as in "Attention Is All You Need" (2017), grouped query heads as in GQA (2023); two passes: exact max first.
// Query head h reads KV head h / (heads / kv_heads). Attention reads stored (rounded) values only, the current step's too.
// With a window a token sees that many positions, its own the last (Longformer, 2020). A sink is a score of its head without a value: it joins
// the max and is added last to the softmax sum (gpt-oss; attention sinks as in StreamingLLM, 2023).
#pragma once
#include <cstdint>

#include "core/memory.h"
#include "cpu/kernels.h"

namespace tmoe {

/** Bytes of one layer's part of a page: kKvPage positions of every KV head. */
inline size_t kv_layer_bytes(KvType type, size_t kv_heads, size_t head_dim, size_t value_dim) {
    return kKvPage * kv_heads * (head_dim + value_dim) * kv_bytes(type);
}

/** Consecutive tokens of one sequence. */
struct AttentionRun {
    size_t first, count;         ///< rows of q, k, v and out
    size_t start;                ///< absolute position of the first
    uint8_t* const* pages;       ///< one per kKvPage positions, enough for start + count
};

struct AttentionArgs {
    const float *q, *k, *v;      ///< [tokens][heads · head_dim], [tokens][kv_heads · head_dim], [tokens][kv_heads · value_stride]
    float* out;                  ///< [tokens][heads · value_dim]
    size_t heads, kv_heads, head_dim, value_dim;
    float scale;
    KvType type;
    size_t layer_offset;         ///< bytes of this layer's part inside a page
    const AttentionRun* runs;
    size_t run_count;
    size_t window = 0;           ///< positions that a token sees, at most; 0 = all before it
    const float* sinks = nullptr;   ///< [heads]; null = none
    size_t first_of(size_t visible) const { return window > 0 && visible > window ? visible - window : 0; }
    size_t value_stride = 0;     ///< floats from one head's values to the next; 0 = value_dim. Values that are their keys' first floats: head_dim
};

/** Scratch of attention: rows of scores for each thread. */
struct AttentionScratch {
    Buffer scores;
    size_t stride = 0;           ///< positions in one row of scores
    /** Bytes of the scores once so many positions were reserved. */
    size_t bytes(size_t threads, size_t positions) const;
    Status reserve(size_t threads, size_t positions);

  private:
    size_t grown(size_t threads, size_t positions) const;
};

/** The n-th part of the keys that its item-th piece of work begins with, for ThreadPool::expect; none where there are fewer. */
Span attention_item(const AttentionArgs& args, size_t item, size_t n);
/** `scratch` must hold the largest start + count. CANCELLED. */
Status attention(const Context& context, const AttentionArgs& args, AttentionScratch& scratch);
/** Same contract; plain loops in the documented order. */
Status attention_ref(const AttentionArgs& args);

}  // namespace tmoe
