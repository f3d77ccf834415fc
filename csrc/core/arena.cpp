#include "core/arena.h"

#include <algorithm>
#include <new>

#include "cpu/route.h"

namespace tmoe {

namespace {

/** The largest sizes that any operation of a plan needs. */
struct Sizes {
    size_t width = 0, k = 0, experts = 0, router_rows = 0, hidden = 0, routed_width = 0, rotary = 0;
    std::vector<const PlanOp*> tables;  // one rope operation per table that differs
    explicit Sizes(const Plan& plan) {
        for (uint32_t w : plan.buffer_widths) width = std::max<size_t>(width, w);
        for (const PlanOp& op : plan.ops) {
            if (op.kind == OpKind::Rope) {
                rotary = std::max<size_t>(rotary, op.rotary_dim);
                if (table_of(op) == tables.size()) tables.push_back(&op);
            }
            if (op.kind == OpKind::Route) {
                k = std::max<size_t>(k, op.k);
                experts = std::max<size_t>(experts, plan.tensors[op.weight].shape[1]);
                router_rows = std::max<size_t>(router_rows, plan.tensors[op.weight].shape[1] + op.hser.tier_groups.size() + op.hser.group_experts.size());
                routed_width = std::max<size_t>(routed_width, plan.tensors[op.weight].shape[0]);
            }
            if (op.kind == OpKind::Experts) hidden = std::max<size_t>(hidden, plan.tensors[op.gate].shape[1]);
        }
    }
    size_t table_of(const PlanOp& op) const {
        size_t table = 0;
        while (table < tables.size() && (tables[table]->base != op.base || tables[table]->rotary_dim != op.rotary_dim)) table++;
        return table;
    }
    /** The rows of `values`, per token; logits use them too. */
    size_t value_rows() const { return std::max<size_t>(k, 1); }
};

/** Blocks that `allocate` asks for beside the plan's buffers, at most; each is rounded up to a multiple of 64 bytes. */
constexpr size_t kBlocks = 40;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/** Positions whose attention scores fit from the start; a model may name a context that no memory can hold. */
size_t score_positions(const Plan& plan) { return round_up(std::min<size_t>(plan.context_length, kScorePositions), kLanes); }

}  // namespace

uint64_t Model::Arena::bytes(const Plan& plan, size_t max_batch, size_t threads) {
    const Sizes s(plan);
    uint64_t floats = 0;
    for (uint32_t w : plan.buffer_widths) floats += max_batch * uint64_t{w};
    floats += max_batch * (s.router_rows * 3 + s.routed_width + s.k * 4 + s.value_rows() * uint64_t{s.width} + s.tables.size() * s.rotary);
    floats += (kLogitRows + 2 * threads) * uint64_t{plan.vocab};
    floats += threads * kAttendRows * uint64_t{score_positions(plan)} + s.experts + 1;
    const uint64_t padding = (plan.buffer_widths.size() + kBlocks) * uint64_t{64};
    return padding + floats * 4 + ActivationBuffer::bytes(max_batch, round_up(s.width, 32)) +
           (s.hidden ? ExpertScratch::bytes(max_batch, s.k, round_up(s.width, 32), round_up(s.hidden, 32)) : 0);
}

Status Model::Arena::allocate(const Plan& plan, size_t max_batch, size_t threads) {
    const Sizes s(plan);
    buffers.resize(plan.buffer_widths.size());
    for (size_t i = 0; i < buffers.size(); i++) TMOE_RETURN_IF_ERROR(buffers[i].allocate(max_batch * plan.buffer_widths[i] * sizeof(float)));
    TMOE_RETURN_IF_ERROR(activations.reserve(max_batch, round_up(s.width, 32)));
    if (s.hidden) TMOE_RETURN_IF_ERROR(experts.reserve(max_batch, s.k, round_up(s.width, 32), round_up(s.hidden, 32)));
    TMOE_RETURN_IF_ERROR(ids.allocate(max_batch * s.k * sizeof(int32_t)));
    TMOE_RETURN_IF_ERROR(weights.allocate(max_batch * s.k * sizeof(float)));
    TMOE_RETURN_IF_ERROR(scores.allocate(max_batch * s.router_rows * sizeof(int64_t)));
    TMOE_RETURN_IF_ERROR(states24.allocate(max_batch * s.routed_width * sizeof(int32_t)));
    TMOE_RETURN_IF_ERROR(probabilities.allocate(max_batch * s.router_rows * sizeof(float)));
    TMOE_RETURN_IF_ERROR(offsets.allocate((s.experts + 1) * sizeof(uint32_t)));
    TMOE_RETURN_IF_ERROR(slots.allocate(max_batch * s.k * sizeof(uint32_t)));
    TMOE_RETURN_IF_ERROR(rows.allocate(max_batch * s.k * sizeof(uint32_t)));
    TMOE_RETURN_IF_ERROR(values.allocate(max_batch * s.value_rows() * s.width * sizeof(float)));
    TMOE_RETURN_IF_ERROR(attention.reserve(threads, score_positions(plan)));
    planned_scores = attention.scores.size();
    TMOE_RETURN_IF_ERROR(logits.allocate(kLogitRows * plan.vocab * sizeof(float)));
    TMOE_RETURN_IF_ERROR(sampling.allocate(threads * 2 * plan.vocab * sizeof(float)));

    rope_of_op.assign(plan.ops.size(), 0);
    for (size_t i = 0; i < plan.ops.size(); i++) {
        const PlanOp& op = plan.ops[i];
        if (op.kind == OpKind::Rope) rope_of_op[i] = static_cast<uint32_t>(s.table_of(op));
    }
    for (const PlanOp* op : s.tables) rope_tables.emplace_back(op->base, op->rotary_dim);
    rope_stride = max_batch * s.rotary / 2;
    TMOE_RETURN_IF_ERROR(cosines.allocate(rope_tables.size() * rope_stride * sizeof(float)));
    TMOE_RETURN_IF_ERROR(sines.allocate(rope_tables.size() * rope_stride * sizeof(float)));

    bad.reset(new (std::nothrow) std::atomic<uint8_t>[max_batch]);
    if (!bad) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate the step's flags");
    bad_layer.assign(max_batch, -1);
    return {};
}

}  // namespace tmoe
