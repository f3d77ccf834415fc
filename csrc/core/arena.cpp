#include "core/arena.h"

#include <algorithm>
#include <new>

#include "core/step_sizes.h"

namespace tmoe {

namespace {

/** Blocks that `allocate` asks for beside the plan's buffers, at most; each is rounded up to a multiple of 64 bytes. */
constexpr size_t kBlocks = 40;

/** Positions whose attention scores fit from the start; a model may name a context that no memory can hold. */
size_t score_positions(const Plan& plan) { return round_up(std::min<size_t>(plan.context_length, kScorePositions), kLanes); }

ExpertSizes expert_sizes(const StepSizes& s, size_t tokens, size_t threads) {
    return {tokens, s.k, round_up(s.model_width, 32), round_up(s.hidden, 32), threads};
}

}  // namespace

uint64_t Model::Arena::bytes(const Plan& plan, size_t max_batch, size_t threads) {
    const StepSizes s(plan);
    uint64_t floats = 0;
    for (uint32_t w : plan.buffer_widths) floats += max_batch * uint64_t{w};
    floats += max_batch * (s.router_rows * 3 + s.routed_width + s.k * 4 + s.value_rows() * uint64_t{s.model_width} + s.tables.size() * s.rotary);
    floats += (kLogitRows + 2 * threads) * uint64_t{plan.vocab};
    floats += threads * kAttendRows * uint64_t{score_positions(plan)} + s.experts + 1;
    const uint64_t padding = (plan.buffer_widths.size() + kBlocks) * uint64_t{64};
    return padding + floats * 4 + ActivationBuffer::bytes(max_batch, round_up(s.width, 32)) +
           (s.hidden ? ExpertScratch::bytes(expert_sizes(s, max_batch, threads)) : 0);
}

Status Model::Arena::allocate(const Plan& plan, size_t max_batch, size_t threads) {
    const StepSizes s(plan);
    buffers.resize(plan.buffer_widths.size());
    for (size_t i = 0; i < buffers.size(); i++) TMOE_RETURN_IF_ERROR(buffers[i].allocate(max_batch * plan.buffer_widths[i] * sizeof(float)));
    TMOE_RETURN_IF_ERROR(activations.reserve(max_batch, round_up(s.width, 32)));
    if (s.hidden) TMOE_RETURN_IF_ERROR(experts.reserve(expert_sizes(s, max_batch, threads)));
    TMOE_RETURN_IF_ERROR(ids.allocate(max_batch * s.k * sizeof(int32_t)));
    TMOE_RETURN_IF_ERROR(weights.allocate(max_batch * s.k * sizeof(float)));
    TMOE_RETURN_IF_ERROR(scores.allocate(max_batch * s.router_rows * sizeof(int64_t)));
    TMOE_RETURN_IF_ERROR(states24.allocate(max_batch * s.routed_width * sizeof(int32_t)));
    TMOE_RETURN_IF_ERROR(probabilities.allocate(max_batch * s.router_rows * sizeof(float)));
    TMOE_RETURN_IF_ERROR(offsets.allocate((s.experts + 1) * sizeof(uint32_t)));
    TMOE_RETURN_IF_ERROR(slots.allocate(max_batch * s.k * sizeof(uint32_t)));
    TMOE_RETURN_IF_ERROR(rows.allocate(max_batch * s.k * sizeof(uint32_t)));
    TMOE_RETURN_IF_ERROR(values.allocate(max_batch * s.value_rows() * s.model_width * sizeof(float)));
    TMOE_RETURN_IF_ERROR(attention.reserve(threads, score_positions(plan)));
    planned_scores = attention.scores.size();
    TMOE_RETURN_IF_ERROR(logits.allocate(kLogitRows * plan.vocab * sizeof(float)));
    TMOE_RETURN_IF_ERROR(sampling.allocate(threads * 2 * plan.vocab * sizeof(float)));

    rope_of_op.assign(plan.ops.size(), 0);
    for (size_t i = 0; i < plan.ops.size(); i++) {
        const PlanOp& op = plan.ops[i];
        if (op.kind == OpKind::Rope) rope_of_op[i] = static_cast<uint32_t>(s.table_of(op));
    }
    for (const PlanOp* op : s.tables) {
        rope_tables.emplace_back(op->base, op->rotary_dim, op->scaling);
        rope_divisors.push_back(op->divisors);
    }
    rope_stride = max_batch * s.rotary / 2;
    TMOE_RETURN_IF_ERROR(cosines.allocate(rope_tables.size() * rope_stride * sizeof(float)));
    TMOE_RETURN_IF_ERROR(sines.allocate(rope_tables.size() * rope_stride * sizeof(float)));

    bad.reset(new (std::nothrow) std::atomic<uint8_t>[max_batch]);
    if (!bad) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate the step's flags");
    bad_layer.assign(max_batch, -1);
    return {};
}

Status Model::Arena::divide_frequencies(uint32_t tensor, const Weight& weight) {
    for (size_t table = 0; table < rope_tables.size(); table++) {
        if (rope_divisors[table] != tensor) continue;
        const float* divisors = weight.data.as<float>();
        for (size_t i = 0; i < weight.columns; i++) {
            if (!(divisors[i] >= kLeastRopeDivisor)) return Status(StatusCode::VALIDATION_ERROR, format("the divisor %zu of rotary frequencies is %g, not at least 2^-30", i, static_cast<double>(divisors[i])));
        }
        rope_tables[table].divide(divisors);
    }
    return {};
}

}  // namespace tmoe
