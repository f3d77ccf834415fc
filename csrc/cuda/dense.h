// The operations of a plan that are not a mixture of experts, on the device. Contracts as in csrc/cpu; pointers are the device's.
#pragma once
#include "cpu/rope.h"
#include "cuda/matmul.h"

namespace tmoe {
namespace cuda {

struct RmsNormCall {
    const float *x, *weight;   ///< [rows][n], [n]
    size_t rows, n;
    float epsilon;
    float* out;                ///< [rows][n]; may be x
    size_t token_rows = 1;     ///< rows of one token, for the marks
    Marks marks;               ///< where a sum of squares is not finite
    size_t stride = 0;         ///< floats from one token's rows to the next's; 0 = they follow one another
};
Status rms_norm(Stream& stream, const RmsNormCall& call);

struct RopeCall {
    float* x;                  ///< [tokens][heads][head_dim], in place
    size_t tokens, heads, head_dim, half;
    const float *cosines, *sines;   ///< [tokens][half], from RopeTable
    RopePairs pairs;
    size_t offset = 0;         ///< floats of a head before those that are rotated
};
Status rope(Stream& stream, const RopeCall& call);

struct AttentionCall {
    const float *q, *k, *v;            ///< [tokens][heads · head_dim], [tokens][kv_heads · head_dim], [tokens][kv_heads · value_dim]
    float* out;                        ///< [tokens][heads · value_dim]
    size_t tokens, heads, kv_heads, head_dim, value_dim;
    float scale;
    KvType type;
    size_t layer_offset;               ///< bytes of this layer's part inside a page
    const uint32_t* positions;         ///< [tokens]
    const uint32_t* first_pages;       ///< [tokens]: where the list of the token's sequence begins in `pages`
    uint8_t* const* pages;             ///< one per kKvPage positions of each sequence
    size_t most_visible;               ///< the largest position + 1
    float* scores;                     ///< scratch: rows of most_visible floats
    size_t score_rows;                 ///< at least 1; tokens · heads of them make it one pass
    size_t value_stride = 0;           ///< as AttentionArgs has it
    size_t window = 0;                 ///< positions that a token sees; 0 = all
    const float* sinks = nullptr;      ///< [heads]; null = none
};
/** Writes k and v into the cache, then attends over what it holds. */
Status attention(Stream& stream, const AttentionCall& call);

/** GatedArgs of cpu/gated.h. */
struct GatedCall {
    float* x;
    const float* gate;
    size_t rows, n;
    bool by_row;
    Marks marks;
};
Status gated(Stream& stream, const GatedCall& call);

/** What follows a head's product in head_matmul: rows are (token, head); out[row][to + i] = x[row][from + i], i < carried. */
struct CarryCall {
    const float* x;
    size_t rows, from, to, carried;
    float* out;
};
Status carry(Stream& stream, const CarryCall& call);
/** x[n] *= by. */
Status scale(Stream& stream, float* x, size_t n, float by);

/** Rows of a table in the file's layout, decoded; the ids are checked by the caller. */
struct EmbedCall {
    RawMatrix table;
    const int32_t* ids;
    size_t count;
    float* out;
};
Status embed(Stream& stream, const EmbedCall& call);
/** All rows, in order. */
Status dequantise(Stream& stream, const RawMatrix& table, float* out);
/** encode_row of quant/blocks.h; marks rows that have no encoding. */
struct EncodeCall {
    DType type;
    const float* x;
    size_t rows, columns;
    uint8_t* out;
    Marks marks;
};
Status encode(Stream& stream, const EncodeCall& call);

/** Marks the tokens of rows that hold a value that is not finite. */
struct FiniteCall {
    const float* x;            ///< [rows][width]
    size_t rows, width;
    const uint32_t* tokens;    ///< [rows]
    Marks marks;
};
Status mark_not_finite(Stream& stream, const FiniteCall& call);

/** out[i] = x[rows[i]], `width` floats each. */
Status gather_rows(Stream& stream, const float* x, const uint32_t* rows, size_t count, size_t width, float* out);

}  // namespace cuda
}  // namespace tmoe
