// dispatch, combine, and the packing of an all-to-all: moving rows between token order and expert order.
//
// A slot is one (token, choice): slot = token · k + choice. Dispatch sorts slots by (expert, slot); a dispatched row is a slot's
// place in that order. Experts of one EP rank are contiguous, so that a rank's rows are contiguous too.
#pragma once
#include <cstdint>

#include "cpu/kernels.h"

namespace tmoe {

struct DispatchArgs {
    const int32_t* ids;      ///< [tokens][k]
    size_t tokens, k, experts;
    uint32_t* offsets;       ///< out [experts + 1]: expert e owns rows offsets[e] … offsets[e + 1] - 1
    uint32_t* slots;         ///< out [tokens · k]: the slot of each row
    uint32_t* rows;          ///< out [tokens · k]: the row of each slot
};
/** ROUTING_INVALID_EXPERT {token, slot, expertId}; an expert that stands twice in one token's choices is invalid too. */
Status dispatch(const DispatchArgs& args);
Status dispatch_ref(const DispatchArgs& args);

struct CombineArgs {
    const float* values;     ///< [tokens · k][width] in row order
    const int32_t* ids;      ///< [tokens][k]: sums run in ascending expert id
    const float* weights;    ///< [tokens][k]
    const uint32_t* rows;    ///< [tokens · k], from dispatch
    size_t tokens, k, width, experts;
    bool add;                ///< add to `out` instead of replacing it
    float* out;              ///< [tokens][width]
};
/** out[t] (+)= Σ weight · value over t's slots. ROUTING_INVALID_EXPERT, VALIDATION_ERROR (a row out of range), CANCELLED. */
Status combine(const Context& context, const CombineArgs& args);
Status combine_ref(const CombineArgs& args);

struct AllToAllArgs {
    const uint32_t* offsets;     ///< [experts + 1], from dispatch
    const uint32_t* slots;       ///< [rows], from dispatch
    size_t rows, k, width, experts, ranks, tokens;
    const float* from;           ///< pack: [tokens][width]; unpack: [rows][width] in row order
    float* to;                   ///< pack: [rows][width] in row order; unpack: [tokens · k][width] in slot order
    uint32_t* rank_rows;         ///< pack: out [ranks]: rows that go to each rank; experts are split as evenly as they go, first ranks one more
};
/** VALIDATION_ERROR where offsets or slots are not a dispatch of these sizes. */
Status all_to_all_pack(const AllToAllArgs& args);
Status all_to_all_pack_ref(const AllToAllArgs& args);
Status all_to_all_unpack(const AllToAllArgs& args);
Status all_to_all_unpack_ref(const AllToAllArgs& args);

/** The checks above, shared with the naive twins. */
Status check_dispatch_ids(const char* op, const int32_t* ids, size_t tokens, size_t k, size_t experts);
Status check_combine(const CombineArgs& args);
Status check_all_to_all(const char* op, const AllToAllArgs& args);
/** Fills in `rank_rows`. */
void count_rank_rows(const AllToAllArgs& args);

}  // namespace tmoe
