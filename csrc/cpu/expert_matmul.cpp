#include "cpu/expert_matmul.h"

#include <string>

#include "quant/repack.h"

namespace tmoe {

namespace {

constexpr size_t kMostGroups = 16;   // row groups of one item: long enough to pay for its panel, short enough to stop at once

size_t groups_of(const MatrixView& w) { return (w.rows + kLanes - 1) / kLanes; }

/** Row groups per item: a few items per thread, an even number of groups so that a block of 32 rows has one owner. */
size_t item_groups(size_t groups, size_t matrices, size_t threads) {
    size_t size = groups * matrices / (threads * 8) / 2 * 2;
    if (size < 2) size = 2;
    return size < kMostGroups ? size : kMostGroups;
}

Span groups_span(const MatrixView& w, size_t first, size_t last) {
    const size_t bytes = packed_group_bytes(w.type, w.columns);
    return {w.packed + first * bytes, (last - first) * bytes};
}

/** The work of a matmul: row groups of its targets, one target after another. */
class MatmulItems {
  public:
    MatmulItems(const MatmulTarget* targets, size_t target_count, size_t threads) : targets_(targets), target_count_(target_count) {
        size_t groups = 0;
        for (size_t i = 0; i < target_count; i++) groups += groups_of(targets[i].weight);
        size_ = item_groups(groups, 1, threads);
    }

    size_t count() const {
        size_t items = 0;
        for (size_t i = 0; i < target_count_; i++) items += items_of(targets_[i]);
        return items;
    }

    struct Part {
        const MatmulTarget* target;
        size_t first, last;
    };
    Part at(size_t item) const {
        const MatmulTarget* target = targets_;
        while (item >= items_of(*target)) item -= items_of(*target++);
        const size_t all = groups_of(target->weight), first = item * size_;
        return {target, first, first + size_ < all ? first + size_ : all};
    }

  private:
    size_t items_of(const MatmulTarget& target) const { return (groups_of(target.weight) + size_ - 1) / size_; }

    const MatmulTarget* targets_;
    size_t target_count_, size_;
};

/** One item of work: some row groups of one expert. */
struct Item {
    uint32_t expert, first, last;
};

size_t list_items(const ExpertMatmulArgs& a, const uint32_t* experts, size_t expert_count, size_t groups, size_t size, Item* items) {
    size_t count = 0;
    for (size_t i = 0; i < expert_count; i++) {
        if (a.offsets[experts[i]] == a.offsets[experts[i] + 1]) continue;
        for (size_t first = 0; first < groups; first += size) {
            const size_t last = first + size < groups ? first + size : groups;
            items[count++] = {experts[i], static_cast<uint32_t>(first), static_cast<uint32_t>(last)};
        }
    }
    return count;
}

/** Quantised input as a view, where a matrix wants it. */
ActivationView input_view(const ExpertMatmulArgs& a, ExpertScratch& scratch) {
    ActivationView x;
    x.columns = a.width;
    x.values = a.x;
    x.value_stride = a.width;
    if (is_quantised(a.gate.shape.type) || is_quantised(a.up.shape.type)) x.blocks = scratch.x.row(0, a.width);
    return x;
}

Status cancelled() { return Status(StatusCode::CANCELLED, "expertMatmul was cancelled"); }

/** An expert with rows has at most one item per two row groups, and there are at most as many such experts as rows. */
size_t most_items(size_t rows, size_t hidden_width, size_t width) {
    const size_t widest = hidden_width > width ? hidden_width : width;
    return rows * ((widest + kLanes - 1) / kLanes / 2 + 1);
}

}  // namespace

Status check_dispatched(const uint32_t* offsets, size_t experts, const uint32_t* slots, size_t rows) {
    const auto bad = [](const char* what) { return Status(StatusCode::VALIDATION_ERROR, std::string("expertMatmul: ") + what); };
    if (offsets[0] != 0 || offsets[experts] != rows) return bad("offsets must run from 0 to the number of rows");
    for (size_t e = 0; e < experts; e++) {
        if (offsets[e] > offsets[e + 1]) return bad("offsets must not decrease");
    }
    for (size_t row = 0; row < rows; row++) {
        if (slots[row] >= rows) return bad("a slot is out of range");
    }
    return {};
}

bool quantise_rows(const Context& context, const float* x, size_t rows, size_t columns, size_t stride, ActivationBuffer& to,
                   const NonFinite& bad) {
    return context.pool.for_each(rows, context.cancel, [&](size_t row, size_t) {
        if (!context.kernels.quantise_row(x + row * stride, columns, to.row(row, columns))) bad.mark(row);
    });
}

bool matmul(const Context& context, const ActivationView& a, size_t count, const MatmulTarget* targets, size_t target_count,
            bool add) {
    const MatmulItems items(targets, target_count, context.pool.threads());
    return context.pool.for_each(items.count(), context.cancel, [&](size_t item, size_t) {
        const MatmulItems::Part part = items.at(item);
        context.kernels.matmul(part.target->weight, a, nullptr, count, part.target->out, part.target->out_stride, add, part.first, part.last);
    });
}

Span matmul_item(size_t threads, const MatmulTarget* targets, size_t target_count, size_t item) {
    const MatmulItems items(targets, target_count, threads);
    if (item >= items.count()) return {};
    const MatmulItems::Part part = items.at(item);
    return groups_span(part.target->weight, part.first, part.last);
}

Status ExpertScratch::reserve(size_t token_count, size_t k, size_t width, size_t hidden_width) {
    const size_t rows = token_count * k;
    if (width % 32 == 0) TMOE_RETURN_IF_ERROR(x.reserve(token_count, width));
    if (hidden_width % 32 == 0) TMOE_RETURN_IF_ERROR(hidden.reserve(rows, hidden_width));
    TMOE_RETURN_IF_ERROR(gate.reserve(rows * hidden_width * sizeof(float)));
    TMOE_RETURN_IF_ERROR(up.reserve(rows * hidden_width * sizeof(float)));
    TMOE_RETURN_IF_ERROR(tokens.reserve(rows * sizeof(uint32_t)));
    TMOE_RETURN_IF_ERROR(used.reserve(rows * sizeof(uint32_t)));
    return items.reserve(most_items(rows, hidden_width, width) * sizeof(Item));
}

size_t ExpertScratch::bytes(size_t token_count, size_t k, size_t width, size_t hidden_width) {
    const size_t rows = token_count * k;
    return ActivationBuffer::bytes(token_count, width) + ActivationBuffer::bytes(rows, hidden_width) +
           2 * rows * hidden_width * sizeof(float) + 2 * rows * sizeof(uint32_t) + most_items(rows, hidden_width, width) * sizeof(Item);
}

Status begin_expert_matmul(const Context& context, const ExpertMatmulArgs& a, ExpertScratch& scratch, const NonFinite& bad) {
    const size_t rows = a.tokens * a.k;
    TMOE_RETURN_IF_ERROR(check_dispatched(a.offsets, a.experts, a.slots, rows));
    TMOE_RETURN_IF_ERROR(scratch.reserve(a.tokens, a.k, a.width, a.gate.shape.rows));
    uint32_t* tokens = scratch.tokens.as<uint32_t>();  // the token of each row: what the first two matrices gather by
    for (size_t row = 0; row < rows; row++) tokens[row] = static_cast<uint32_t>(a.slots[row] / a.k);
    if (!is_quantised(a.gate.shape.type) && !is_quantised(a.up.shape.type)) return {};
    return quantise_rows(context, a.x, a.tokens, a.width, a.width, scratch.x, bad) ? Status() : cancelled();
}

Status expert_matmul_part(const Context& context, const ExpertMatmulArgs& a, const uint32_t* experts, size_t expert_count, ExpertScratch& scratch,
                          const NonFinite& bad) {
    const size_t hidden = a.gate.shape.rows;
    const uint32_t* tokens = scratch.tokens.as<uint32_t>();
    const ActivationView x = input_view(a, scratch);
    ActivationView h;
    h.columns = hidden;
    h.values = scratch.gate.as<float>();
    h.value_stride = hidden;
    const bool quantise_hidden = is_quantised(a.down.shape.type);

    const auto act = a.activation == ExpertActivation::Silu ? context.kernels.silu_mul : context.kernels.clamped_swiglu;
    Item* items = scratch.items.as<Item>();
    const size_t threads = context.pool.threads();
    float* gate = scratch.gate.as<float>();
    float* up = scratch.up.as<float>();

    const size_t down_groups = groups_of(a.down.shape), down_size = item_groups(down_groups, expert_count, threads);
    context.pool.expect([&](size_t worker, size_t n) {
        const size_t parts = (down_groups + down_size - 1) / down_size, first = worker % parts * down_size;
        if (n > 0 || worker / parts >= expert_count) return Span{};
        return groups_span(a.down.at(experts[worker / parts]), first, first + down_size < down_groups ? first + down_size : down_groups);
    });
    const size_t groups = groups_of(a.gate.shape);
    size_t count = list_items(a, experts, expert_count, groups, item_groups(groups, expert_count, threads), items);
    bool done = context.pool.for_each(count, context.cancel, [&](size_t index, size_t) {
        const Item& item = items[index];
        const size_t begin = a.offsets[item.expert], n = a.offsets[item.expert + 1] - begin;
        context.kernels.matmul(a.gate.at(item.expert), x, tokens + begin, n, gate + begin * hidden, hidden, false, item.first, item.last);
        context.kernels.matmul(a.up.at(item.expert), x, tokens + begin, n, up + begin * hidden, hidden, false, item.first, item.last);
        const size_t column = item.first * kLanes;
        const size_t columns = (item.last * kLanes < hidden ? item.last * kLanes : hidden) - column;
        for (size_t row = begin; row < begin + n; row++) {
            float* at = gate + row * hidden + column;
            act(at, up + row * hidden + column, columns, at);
            if (quantise_hidden && !context.kernels.quantise_row(at, columns, scratch.hidden.row(row, hidden, column))) {
                bad.mark(tokens[row]);
            }
        }
    });
    if (!done) return cancelled();

    if (a.before_down) (*a.before_down)();
    count = list_items(a, experts, expert_count, down_groups, down_size, items);
    // The down matrix reads rows of h where they stand, so a view that starts at the expert's first row serves as its activations.
    done = context.pool.for_each(count, context.cancel, [&](size_t index, size_t) {
        const Item& item = items[index];
        const size_t begin = a.offsets[item.expert], n = a.offsets[item.expert + 1] - begin;
        ActivationView own = h;
        own.values += begin * hidden;
        if (quantise_hidden) own.blocks = scratch.hidden.row(begin, hidden);
        context.kernels.matmul(a.down.at(item.expert), own, nullptr, n, a.out + begin * a.width, a.width, false, item.first, item.last);
    });
    return done ? Status() : cancelled();
}

Status expert_matmul(const Context& context, const ExpertMatmulArgs& a, ExpertScratch& scratch, const NonFinite& bad) {
    TMOE_RETURN_IF_ERROR(begin_expert_matmul(context, a, scratch, bad));
    uint32_t* used = scratch.used.as<uint32_t>();
    size_t count = 0;
    for (size_t e = 0; e < a.experts; e++) {
        if (a.offsets[e] != a.offsets[e + 1]) used[count++] = static_cast<uint32_t>(e);
    }
    return expert_matmul_part(context, a, used, count, scratch, bad);
}

}  // namespace tmoe
