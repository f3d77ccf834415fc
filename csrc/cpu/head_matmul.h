// head_matmul: every head's part of a row times a matrix of that head, as multi-head latent attention takes queries into the space of the
// compressed keys, and its result out of that of the values (DeepSeek-V2, 2024, the absorbed form). Sums are those of cpu/expert_matmul.h.
#pragma once
#include "cpu/expert_matmul.h"

namespace tmoe {

struct HeadMatmulArgs {
    const float* x;          ///< [tokens][heads · (columns + carried)]
    size_t tokens, heads;
    ExpertStack weight;      ///< [heads] of rows × columns
    size_t carried;          ///< floats behind the columns of a head, which follow its product as they are
    float* out;              ///< [tokens][heads · (rows + carried)]
};
/** `scratch`: reserved for tokens · heads rows of `columns`, where the weight is quantised. CANCELLED. */
Status head_matmul(const Context& context, const HeadMatmulArgs& args, ActivationBuffer& scratch, const NonFinite& bad);

struct HeadMatmulRefArgs {
    const float* x;
    size_t tokens, heads;
    RawMatrix weight;        ///< of the first head
    size_t carried;
    float* out;
};
/** Same contract; weights in the file's layout, one head of one token at a time. RUNTIME_NAN_DETECTED {token}. */
Status head_matmul_ref(const HeadMatmulRefArgs& args);

}  // namespace tmoe
