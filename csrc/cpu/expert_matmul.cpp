#include "cpu/expert_matmul.h"

#include <string>

#include "quant/repack.h"

namespace tmoe {

namespace {

constexpr size_t kMostGroups = 16;   // row groups of one item: long enough to be worth taking, short enough to stop at once
constexpr size_t kStripFloats = 8192;   // products of gate, and of up, that a thread holds until they are activated: within its L2
constexpr size_t kStripRows = kStripFloats / kActBlock;   // rows of an expert that go through its matrices together

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
    Span span(size_t item) const {
        const Part part = at(item);
        return groups_span(part.target->weight, part.first, part.last);
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

/** First weights of an item, null where the list has none at `index`. */
const uint8_t* item_weights(const ExpertStack& stack, const Item* items, size_t count, size_t index) {
    return index < count ? stack.at(items[index].expert).packed + items[index].first * packed_group_bytes(stack.shape.type, stack.shape.columns) : nullptr;
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

/** act(gate · x, up · x) of an item, as the down matrix takes it: what a thread holds of the products is a strip of columns at a time. */
struct GateAndUp {
    const Kernels& kernels;
    const ExpertMatmulArgs& a;
    const ActivationView& x;
    ExpertScratch& scratch;
    const NonFinite& bad;
    float* strips;   ///< of the thread: 2 · kStripFloats

    /** Of rows [begin, begin + n), n at most kStripRows. */
    void run(const Item& item, size_t begin, size_t n, const uint8_t* then) const {
        const MatrixView gate = a.gate.at(item.expert), up = a.up.at(item.expert);
        const size_t gate_bytes = packed_group_bytes(gate.type, gate.columns), up_bytes = packed_group_bytes(up.type, up.columns);
        const size_t fits = kStripFloats / (n * kLanes) / 2 * 2, all = item.last - item.first, size = fits < all ? fits : all;
        float* const gates = strips;
        float* const ups = strips + kStripFloats;
        for (size_t first = item.first, last; first < item.last; first = last) {
            last = first + size < item.last ? first + size : item.last;
            const size_t stride = (last - first) * kLanes, column = first * kLanes, columns = (gate.rows < last * kLanes ? gate.rows : last * kLanes) - column;
            const uint32_t* tokens = scratch.tokens.as<uint32_t>() + begin;
            kernels.matmul(gate, x, {n, tokens, gates, stride, false, first, last, up.packed + first * up_bytes});
            kernels.matmul(up, x, {n, tokens, ups, stride, false, first, last, last < item.last ? gate.packed + last * gate_bytes : then});
            for (size_t row = 0; row < n; row++) finish(begin + row, column, columns, gates + row * stride, ups + row * stride);
        }
    }

    void finish(size_t row, size_t column, size_t columns, float* g, const float* u) const {
        const size_t hidden = a.gate.shape.rows;
        const bool quantise = is_quantised(a.down.shape.type);
        const auto act = a.activation == ExpertActivation::Silu ? kernels.silu_mul : kernels.clamped_swiglu;
        act(g, u, columns, quantise ? g : scratch.values.as<float>() + row * hidden + column);
        if (quantise && !kernels.quantise_row(g, columns, scratch.hidden.row(row, hidden, column))) bad.mark(scratch.tokens.as<uint32_t>()[row]);
    }
};

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
        const MatmulTarget& to = *part.target;
        const size_t next = item + context.pool.threads();
        const uint8_t* then = next < items.count() ? items.span(next).data : nullptr;
        context.kernels.matmul(to.weight, a, {count, nullptr, to.out + part.first * kLanes, to.out_stride, add, part.first, part.last, then});
    });
}

Span matmul_item(size_t threads, const MatmulTarget* targets, size_t target_count, size_t item) {
    const MatmulItems items(targets, target_count, threads);
    return item < items.count() ? items.span(item) : Span{};
}

Status ExpertScratch::reserve(const ExpertSizes& s) {
    if (s.width % 32 == 0) TMOE_RETURN_IF_ERROR(x.reserve(s.tokens, s.width));
    if (s.hidden_width % 32 == 0) TMOE_RETURN_IF_ERROR(hidden.reserve(s.rows(), s.hidden_width));
    TMOE_RETURN_IF_ERROR(values.reserve(s.rows() * s.hidden_width * sizeof(float)));
    TMOE_RETURN_IF_ERROR(strips.reserve(s.threads * 2 * kStripFloats * sizeof(float)));
    TMOE_RETURN_IF_ERROR(tokens.reserve(s.rows() * sizeof(uint32_t)));
    TMOE_RETURN_IF_ERROR(used.reserve(s.rows() * sizeof(uint32_t)));
    return items.reserve(most_items(s.rows(), s.hidden_width, s.width) * sizeof(Item));
}

size_t ExpertScratch::bytes(const ExpertSizes& s) {
    return ActivationBuffer::bytes(s.tokens, s.width) + ActivationBuffer::bytes(s.rows(), s.hidden_width) +
           s.rows() * s.hidden_width * sizeof(float) + s.threads * 2 * kStripFloats * sizeof(float) + 2 * s.rows() * sizeof(uint32_t) +
           most_items(s.rows(), s.hidden_width, s.width) * sizeof(Item);
}

Status begin_expert_matmul(const Context& context, const ExpertMatmulArgs& a, ExpertScratch& scratch, const NonFinite& bad) {
    const size_t rows = a.tokens * a.k;
    TMOE_RETURN_IF_ERROR(check_dispatched(a.offsets, a.experts, a.slots, rows));
    TMOE_RETURN_IF_ERROR(scratch.reserve({a.tokens, a.k, a.width, a.gate.shape.rows, context.pool.threads()}));
    uint32_t* tokens = scratch.tokens.as<uint32_t>();  // the token of each row: what the first two matrices gather by
    for (size_t row = 0; row < rows; row++) tokens[row] = static_cast<uint32_t>(a.slots[row] / a.k);
    if (!is_quantised(a.gate.shape.type) && !is_quantised(a.up.shape.type)) return {};
    return quantise_rows(context, a.x, a.tokens, a.width, a.width, scratch.x, bad) ? Status() : cancelled();
}

Status expert_matmul_part(const Context& context, const ExpertMatmulArgs& a, const uint32_t* experts, size_t expert_count, ExpertScratch& scratch,
                          const NonFinite& bad) {
    const ActivationView x = input_view(a, scratch);
    Item* items = scratch.items.as<Item>();
    const size_t threads = context.pool.threads();

    const size_t down_groups = groups_of(a.down.shape), down_size = item_groups(down_groups, expert_count, threads);
    context.pool.expect([&](size_t worker, size_t n) {
        const size_t parts = (down_groups + down_size - 1) / down_size, first = worker % parts * down_size;
        if (n > 0 || worker / parts >= expert_count) return Span{};
        return groups_span(a.down.at(experts[worker / parts]), first, first + down_size < down_groups ? first + down_size : down_groups);
    });
    const size_t groups = groups_of(a.gate.shape);
    size_t count = list_items(a, experts, expert_count, groups, item_groups(groups, expert_count, threads), items);
    bool done = context.pool.for_each(count, context.cancel, [&](size_t index, size_t worker) {
        const Item& item = items[index];
        const GateAndUp part = {context.kernels, a, x, scratch, bad, scratch.strips.as<float>() + worker * 2 * kStripFloats};
        for (size_t begin = a.offsets[item.expert], end = a.offsets[item.expert + 1], n; begin < end; begin += n) {
            n = end - begin < kStripRows ? end - begin : kStripRows;
            part.run(item, begin, n, item_weights(a.gate, items, count, begin + n < end ? index : index + threads));
        }
    });
    if (!done) return cancelled();

    if (a.before_down) (*a.before_down)();
    count = list_items(a, experts, expert_count, down_groups, down_size, items);
    const size_t hidden = a.gate.shape.rows;
    done = context.pool.for_each(count, context.cancel, [&](size_t index, size_t) {
        const Item& item = items[index];
        const size_t begin = a.offsets[item.expert], n = a.offsets[item.expert + 1] - begin;
        ActivationView own;   // from the expert's first row on
        own.columns = own.value_stride = hidden;
        own.values = scratch.values.as<float>() + begin * hidden;
        if (is_quantised(a.down.shape.type)) own.blocks = scratch.hidden.row(begin, hidden);
        float* out = a.out + begin * a.width + item.first * kLanes;
        context.kernels.matmul(a.down.at(item.expert), own, {n, nullptr, out, a.width, false, item.first, item.last, item_weights(a.down, items, count, index + threads)});
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
