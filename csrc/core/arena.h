// The memory of one step, allocated once per model and reused: every plan buffer for max_batch tokens, and each operation's scratch.
#pragma once
#include <memory>
#include <vector>

#include "core/model.h"
#include "cpu/attention.h"
#include "cpu/expert_matmul.h"
#include "cpu/rope.h"

namespace tmoe {

struct Model::Arena {
    std::vector<Buffer> buffers;                 ///< one per plan buffer, [max_batch][width] floats
    ActivationBuffer activations;                ///< quantised input of a matmul
    ExpertScratch experts;
    Buffer ids, weights, scores, states24, probabilities;    ///< of route
    Buffer offsets, slots, rows, values;                     ///< of dispatch and expert_matmul
    std::vector<const uint8_t*> blobs;                       ///< of a layer's experts, where a store keeps them
    AttentionScratch attention;
    size_t planned_scores = 0;                   ///< bytes of its scores from the start; beyond them experts make room
    std::vector<RopeTable> rope_tables;
    std::vector<uint32_t> rope_divisors;         ///< per table: the tensor that divides its frequencies, or kNoTensor
    std::vector<uint32_t> rope_of_op;            ///< per plan operation: its table
    Buffer cosines, sines;                       ///< [table][max_batch][rotary_dim / 2]
    size_t rope_stride = 0;                      ///< floats of one table's part
    Buffer logits;                               ///< [rows in flight][vocab]
    Buffer sampling;                             ///< [threads][2 · vocab]
    std::unique_ptr<std::atomic<uint8_t>[]> bad; ///< per token: a value was not finite
    std::vector<int32_t> bad_layer;              ///< per token: the layer where that was first seen, or -1

    float* buffer(uint32_t index) { return buffers[index].as<float>(); }

    /** Bytes that `allocate` takes at most. */
    static uint64_t bytes(const Plan& plan, size_t max_batch, size_t threads);
    Status allocate(const Plan& plan, size_t max_batch, size_t threads);
    /** A tensor of the plan was loaded: tables that it divides are made with it. VALIDATION_ERROR. */
    Status divide_frequencies(uint32_t tensor, const Weight& weight);
};

inline constexpr size_t kLogitRows = 32;         ///< positions whose logits are computed together
inline constexpr size_t kScorePositions = 32768; ///< beyond these, attention's scratch grows with the longest sequence

}  // namespace tmoe
