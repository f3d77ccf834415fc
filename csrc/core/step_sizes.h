// The sizes that decide how much memory a step takes, on the CPU and on a device.
#pragma once
#include <algorithm>
#include <vector>

#include "core/plan.h"

namespace tmoe {

/** The largest sizes that any operation of a plan needs. */
struct StepSizes {
    size_t width = 0, k = 0, experts = 0, router_rows = 0, ranked = 0 /* experts that are not ranked by their scores alone */, hidden = 0, routed_width = 0, rotary = 0;
    size_t model_width = 0;  // of the rows that experts give and logits take
    std::vector<const PlanOp*> tables;  // one rope operation per table that differs
    explicit StepSizes(const Plan& plan) {
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
                if (op.bias != kNoTensor || op.selection_bias != kNoTensor || op.groups.count > 0) ranked = std::max<size_t>(ranked, plan.tensors[op.weight].shape[1]);
                routed_width = std::max<size_t>(routed_width, plan.tensors[op.weight].shape[0]);
            }
            if (op.kind == OpKind::Experts || op.kind == OpKind::Logits) model_width = std::max<size_t>(model_width, plan.buffer_widths[op.in]);
            if (op.kind == OpKind::Experts) hidden = std::max<size_t>(hidden, plan.tensors[op.gate].shape[1]);
        }
    }
    size_t table_of(const PlanOp& op) const {
        size_t table = 0;
        const auto same = [&](const PlanOp& o) { return o.base == op.base && o.rotary_dim == op.rotary_dim && o.scaling == op.scaling && o.divisors == op.divisors; };
        while (table < tables.size() && !same(*tables[table])) table++;
        return table;
    }
    /** The rows of `values`, per token; logits use them too. */
    size_t value_rows() const { return std::max<size_t>(k, 1); }
};

}  // namespace tmoe
