#include "core/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/embed.h"
#include "cpu/gated.h"
#include "cpu/head_matmul.h"

namespace tmoe {

namespace {

Status cancelled() { return Status(StatusCode::CANCELLED, "the step was cancelled"); }

bool all_finite(const float* x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!std::isfinite(x[i])) return false;
    }
    return true;
}

Status invalid(std::string message) { return Status(StatusCode::VALIDATION_ERROR, std::move(message)); }

}  // namespace

Status Model::step(Backend& backend, std::vector<StepItem>& items, const std::atomic<bool>* cancel, StepResult& result) {
    if (device_) return device_->step(backend, items, cancel, result);
    return Executor(*this, backend, items, cancel, result).run();
}

Status Executor::run() {
    TMOE_RETURN_IF_ERROR(prepare());
    TMOE_RETURN_IF_ERROR(begin_store());
    backend_.pool.begin_burst();
    expect_from(0);
    Status status;
    for (size_t i = 0; i < plan_.ops.size() && status.ok(); i++) status = run_op(i);
    backend_.pool.end_burst();
    TMOE_RETURN_IF_ERROR(std::move(status));
    commit();
    return {};
}

/** For the trace of a store. */
StepShape Executor::shape() const {
    StepShape shape;
    for (const StepItem& item : items_) {
        shape.sequences++;
        shape.rows += static_cast<uint32_t>(item.count);
        if (item.count > 1) shape.prefill_rows += static_cast<uint32_t>(item.count);
    }
    return shape;
}

Status Executor::begin_store() {
    if (!model_.store_) return {};
    const Status scrubbed = model_.store_->scrub();
    // What was computed with the damaged expert is not told from the rest.
    if (!scrubbed.ok() && model_.prefix_) model_.prefix_->clear();
    TMOE_RETURN_IF_ERROR(scrubbed);
    model_.store_->begin_step(shape());
    model_.prefetcher_->begin_step(tokens_, model_.store_->counts(), model_.slot_bytes_);
    return {};
}

/** Checks the items, gathers their tokens and makes room in their caches; nothing of a sequence changes before `commit`. */
Status Executor::prepare() {
    result_.items.assign(items_.size(), {});
    use_.assign(model_.routing_.mask_size(), 0);
    size_t visible = 0;
    if (model_.store_) {
        auto held = static_cast<uint64_t>(model_.held_->load());
        size_t longest = 0;
        for (const StepItem& item : items_) {
            const size_t length = std::min(item.sequence->max_tokens, item.sequence->length + item.count);
            held += item.sequence->missing_bytes(length);
            longest = std::max(longest, length);
        }
        held += arena_.attention.bytes(context_.pool.threads(), longest) - arena_.planned_scores;
        TMOE_RETURN_IF_ERROR(model_.balance_memory(held));
    }
    for (size_t i = 0; i < items_.size(); i++) {
        StepItem& item = items_[i];
        if (item.count == 0 || tokens_ + item.count > model_.max_batch_) {
            return invalid(format("a step takes 1 to %zu tokens, item %zu brings %zu after %zu", model_.max_batch_, i, item.count, tokens_));
        }
        for (size_t j = 0; j < i; j++) {
            if (items_[j].sequence == item.sequence) return invalid(format("items %zu and %zu name the same sequence", j, i));
        }
        if (item.sample && item.logits == LogitsWanted::None) return invalid("sampling needs logits");
        all_forced_ = all_forced_ && item.forced_ids;
        any_forced_ = any_forced_ || item.forced_ids;
        any_captured_ = any_captured_ || item.sequence->choices > 0;
        any_masked_ = any_masked_ || item.enabled;
        if (item.forced_ids) TMOE_RETURN_IF_ERROR(check_forced(i));
        const size_t start = item.sequence->length;
        for (size_t t = 0; t < item.count; t++) {
            const int32_t id = item.tokens[t];
            if (id < 0 || static_cast<uint32_t>(id) >= plan_.vocab) {
                return Status(invalid(format("token id %d of item %zu is outside the vocabulary of %u", id, i, plan_.vocab))).with("token", id);
            }
            ids_.push_back(id);
            positions_.push_back(static_cast<uint32_t>(start + t));
        }
        TMOE_RETURN_IF_ERROR(model_.reserve(*item.sequence, start + item.count));
        first_row_.push_back(tokens_);
        runs_.push_back({tokens_, item.count, start, item.sequence->page_data.data()});
        tokens_ += item.count;
        visible = std::max(visible, start + item.count);
    }
    result_.rows = tokens_;
    TMOE_RETURN_IF_ERROR(arena_.attention.reserve(context_.pool.threads(), visible));
    for (size_t t = 0; t < tokens_; t++) {
        arena_.bad[t].store(0, std::memory_order_relaxed);
        arena_.bad_layer[t] = -1;
    }
    for (size_t table = 0; table < arena_.rope_tables.size(); table++) {
        const RopeTable& rope = arena_.rope_tables[table];
        const size_t half = rope.rotary_dim() / 2;
        float* cosines = arena_.cosines.as<float>() + table * arena_.rope_stride;
        float* sines = arena_.sines.as<float>() + table * arena_.rope_stride;
        context_.pool.for_each(tokens_, nullptr, [&](size_t t, size_t) { rope.fill(positions_[t], cosines + t * half, sines + t * half); });
    }
    return {};
}

/**
 * What the first operation from `index` on that reads much memory begins with is what waiting threads ask for, until the next call. With more
 * rows it is less and less memory that takes the time.
 */
void Executor::expect_from(size_t index) {
    constexpr size_t kFewRows = 4;
    if (tokens_ == 0 || tokens_ > kFewRows) return;
    const auto first = [](size_t n, auto span) { return n == 0 ? span() : Span{}; };
    for (; index < plan_.ops.size(); index++) {
        const PlanOp& op = plan_.ops[index];
        if (op.kind == OpKind::Matmul || op.kind == OpKind::Logits) {
            const std::vector<MatmulTarget> targets = targets_of(op);
            return context_.pool.expect([&](size_t worker, size_t n) {
                return first(n, [&] { return matmul_item(context_.pool.threads(), targets.data(), targets.size(), worker); });
            });
        }
        if (op.kind == OpKind::Attention) {
            const AttentionArgs args = attention_args(op, 0, 1);
            return context_.pool.expect([&](size_t worker, size_t n) { return attention_item(args, worker, n); });
        }
        if (op.kind == OpKind::Route) {
            const Weight& router = model_.weights_[op.weight];
            const size_t share = router.data.size() / context_.pool.threads();
            return context_.pool.expect([&](size_t worker, size_t n) { return first(n, [&] { return Span{router.data.data() + worker * share, share}; }); });
        }
        if (op.kind == OpKind::Experts) break;   // which ones is not known yet
    }
    context_.pool.expect([](size_t, size_t) { return Span{}; });
}

Status Executor::run_op(size_t index) {
    const PlanOp& op = plan_.ops[index];
    const bool reads_much = op.kind == OpKind::Matmul || op.kind == OpKind::Attention || op.kind == OpKind::Route || op.kind == OpKind::Logits;
    if (reads_much) expect_from(index + 1);
    switch (op.kind) {
        case OpKind::Embed: return embed(op);
        case OpKind::RmsNorm: return rms_norm(op);
        case OpKind::Matmul: return matmul(op);
        case OpKind::Rope: return rope(op, index);
        case OpKind::Attention: return attention(op);
        case OpKind::Route: return route(op);
        case OpKind::Experts: return experts(op, index);
        case OpKind::Logits: return logits(op);
        case OpKind::Gated: return gated(op);
        case OpKind::HeadMatmul: return head_matmul(op);
        case OpKind::Scale: return scale(op);
    }
    return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, "an operation has no executor");
}

void Executor::note_layer(int32_t layer) {
    for (size_t t = 0; t < tokens_; t++) {
        if (arena_.bad[t].load(std::memory_order_relaxed) && arena_.bad_layer[t] < 0) arena_.bad_layer[t] = layer;
    }
}

Status Executor::embed(const PlanOp& op) {
    const Weight& table = model_.weights_[op.weight];
    TMOE_RETURN_IF_ERROR(tmoe::embed(context_, {{table.type, table.rows, table.columns, table.data.data()}, ids_.data(), tokens_, arena_.buffer(op.out)}));
    if (model_.store_ && model_.foreseeable_ && model_.routed_[0].norm->in == op.out) read_ahead(Prefetcher::kEmbeddings, arena_.buffer(op.out));
    return {};
}

Status Executor::rms_norm(const PlanOp& op) {
    const Weight& weight = model_.weights_[op.weight];
    const size_t width = plan_.buffer_widths[op.in], n = weight.columns, used = op.runs ? op.runs * n : width;
    const float* in = arena_.buffer(op.in);
    float* out = arena_.buffer(op.out);
    const NonFinite bad = flags();
    const bool done = context_.pool.for_each(tokens_, context_.cancel, [&](size_t t, size_t) {
        for (size_t at = t * width; at < t * width + used; at += n) {
            if (!context_.kernels.rms_norm(in + at, weight.data.as<float>(), n, op.epsilon, out + at)) bad.mark(t);
        }
    });
    return done ? Status() : cancelled();
}

Status Executor::scale(const PlanOp& op) {
    const size_t width = plan_.buffer_widths[op.in];
    float* x = arena_.buffer(op.in);
    const bool done = context_.pool.for_each(tokens_, context_.cancel, [&](size_t t, size_t) {
        for (size_t i = t * width; i < (t + 1) * width; i++) x[i] = x[i] * op.scale;
    });
    return done ? Status() : cancelled();
}

/** The products of a Matmul or Logits. */
std::vector<MatmulTarget> Executor::targets_of(const PlanOp& op) {
    if (op.kind == OpKind::Logits) return {{model_.weights_[op.weight].matrix(), arena_.logits.as<float>(), plan_.vocab}};
    std::vector<MatmulTarget> targets;
    for (const MatmulPart& part : op.parts) {
        targets.push_back({model_.weights_[part.weight].matrix(), arena_.buffer(part.out), plan_.buffer_widths[part.out]});
        targets.back().weight.bias = vector_of(part.bias);
    }
    return targets;
}

Status Executor::matmul(const PlanOp& op) {
    ActivationView a;
    a.columns = a.value_stride = plan_.buffer_widths[op.in];
    a.values = arena_.buffer(op.in);
    const std::vector<MatmulTarget> targets = targets_of(op);
    const bool quantised = std::any_of(targets.begin(), targets.end(), [](const MatmulTarget& target) { return is_quantised(target.weight.type); });
    if (quantised) {
        if (!quantise_rows(context_, a.values, tokens_, a.columns, a.columns, arena_.activations, flags())) return cancelled();
        a.blocks = arena_.activations.row(0, a.columns);
    }
    return tmoe::matmul(context_, a, tokens_, targets.data(), targets.size(), op.add) ? Status() : cancelled();
}

Status Executor::rope(const PlanOp& op, size_t index) {
    const size_t table = arena_.rope_of_op[index], half = op.rotary_dim / 2, width = plan_.buffer_widths[op.in];
    const float* cosines = arena_.cosines.as<float>() + table * arena_.rope_stride;
    const float* sines = arena_.sines.as<float>() + table * arena_.rope_stride;
    float* x = arena_.buffer(op.in);
    const bool done = context_.pool.for_each(tokens_, context_.cancel, [&](size_t t, size_t) {
        context_.kernels.rope(x + t * width + op.offset, op.heads, op.head_dim, op.rotary_dim, cosines + t * half, sines + t * half, op.pairs);
    });
    return done ? Status() : cancelled();
}

/** Of items that have one KV type. */
AttentionArgs Executor::attention_args(const PlanOp& op, size_t first_item, size_t count) {
    AttentionArgs args;
    args.q = arena_.buffer(op.in);
    args.k = arena_.buffer(op.k_buffer);
    args.v = arena_.buffer(op.v_buffer);
    args.out = arena_.buffer(op.out);
    args.heads = op.heads;
    args.kv_heads = op.kv_heads;
    args.head_dim = op.head_dim;
    args.value_dim = op.value_dim;
    args.scale = op.scale;
    if (op.v_buffer == op.k_buffer) args.value_stride = op.head_dim;
    args.window = op.window;
    args.sinks = vector_of(op.sinks);
    args.type = items_[first_item].sequence->type;
    args.layer_offset = op.layer * items_[first_item].sequence->layer_bytes;
    args.runs = runs_.data() + first_item;
    args.run_count = count;
    return args;
}

Status Executor::attention(const PlanOp& op) {
    note_layer(static_cast<int32_t>(op.layer));
    for (size_t i = 0; i < items_.size();) {  // one call per run of items with one KV type; nearly always one
        size_t last = i + 1;
        while (last < items_.size() && items_[last].sequence->type == items_[i].sequence->type) last++;
        TMOE_RETURN_IF_ERROR(tmoe::attention(context_, attention_args(op, i, last - i), arena_.attention));
        i = last;
    }
    return {};
}

Status Executor::gated(const PlanOp& op) {
    const GatedArgs args = {arena_.buffer(op.in), arena_.buffer(op.gate), tokens_, plan_.buffer_widths[op.in], op.gate_form == GateForm::Sigmoid};
    return tmoe::gated(context_, args, flags());
}

Status Executor::head_matmul(const PlanOp& op) {
    const Weight& weight = model_.weights_[op.weight];
    const size_t carried = plan_.buffer_widths[op.in] / weight.experts - weight.columns;
    const HeadMatmulArgs args = {arena_.buffer(op.in), tokens_, weight.experts, {weight.matrix(), weight.expert_bytes}, carried, arena_.buffer(op.out)};
    return tmoe::head_matmul(context_, args, arena_.activations, flags());
}

std::vector<Executor::LogitRow> Executor::logit_rows() const {
    std::vector<LogitRow> rows;
    for (size_t i = 0; i < items_.size(); i++) {
        if (items_[i].logits == LogitsWanted::None) continue;
        const size_t first = items_[i].logits == LogitsWanted::Last ? items_[i].count - 1 : 0;
        for (size_t t = first; t < items_[i].count; t++) rows.push_back({static_cast<uint32_t>(first_row_[i] + t), static_cast<uint32_t>(i)});
    }
    return rows;
}

/** Logits of the rows asked for, kLogitRows at a time; each part is handed out and sampled from before the next. */
Status Executor::logits(const PlanOp& op) {
    const Weight& weight = model_.weights_[op.weight];
    const size_t width = plan_.buffer_widths[op.in];
    const std::vector<LogitRow> rows = logit_rows();
    std::vector<size_t> given(items_.size(), 0);   // positions handed out so far
    const float* states = arena_.buffer(op.in);
    for (size_t begin = 0; begin < rows.size(); begin += kLogitRows) {
        const size_t count = std::min(kLogitRows, rows.size() - begin);
        // The rows wanted are copied side by side into `values`, which no expert needs any more.
        float* gathered = arena_.values.as<float>();
        for (size_t i = 0; i < count; i++) memcpy(gathered + i * width, states + rows[begin + i].row * width, width * sizeof(float));
        ActivationView a;
        a.columns = a.value_stride = width;
        a.values = gathered;
        if (is_quantised(weight.type)) {
            const bool done = context_.pool.for_each(count, context_.cancel, [&](size_t i, size_t) {
                if (!context_.kernels.quantise_row(gathered + i * width, width, arena_.activations.row(i, width))) flags().mark(rows[begin + i].row);
            });
            if (!done) return cancelled();
            a.blocks = arena_.activations.row(0, width);
        }
        const float* out = arena_.logits.as<float>();
        if (!tmoe::matmul(context_, a, count, targets_of(op).data(), 1, false)) return cancelled();
        const bool done = context_.pool.for_each(count, context_.cancel, [&](size_t i, size_t worker) {
            const uint32_t index = rows[begin + i].item;
            StepItem& item = items_[index];
            StepItemResult& result = result_.items[index];
            const float* row = out + i * plan_.vocab;
            if (!item.sample || rows[begin + i].row != first_row_[index] + item.count - 1) {
                if (!all_finite(row, plan_.vocab)) flags().mark(rows[begin + i].row);
                return;
            }
            const uint64_t position = item.sequence->length + item.count;
            Status drawn = sample(context_.kernels, row, plan_.vocab, item.sampling, position,
                                  arena_.sampling.as<float>() + worker * 2 * plan_.vocab, result.sampled);
            // Told with its layer and position, as a value of any other layer is.
            if (drawn.code() == StatusCode::RUNTIME_NAN_DETECTED) flags().mark(rows[begin + i].row);
            else result.status = std::move(drawn);
        });
        if (!done) return cancelled();
        for (size_t i = 0; i < count; i++) {
            const uint32_t index = rows[begin + i].item;
            if (!items_[index].logits_out) continue;
            memcpy(items_[index].logits_out + given[index]++ * plan_.vocab, out + i * plan_.vocab, plan_.vocab * sizeof(float));
        }
    }
    return {};
}

/** Keeps the tokens of every item that is sound; an item with a value that was not finite fails alone. */
void Executor::commit() {
    note_layer(static_cast<int32_t>(plan_.layers));
    model_.use_.add(use_);
    for (size_t i = 0; i < items_.size(); i++) {
        StepItemResult& result = result_.items[i];
        for (size_t t = 0; t < items_[i].count; t++) {
            const size_t row = first_row_[i] + t;
            if (!arena_.bad[row].load(std::memory_order_relaxed)) continue;
            const int32_t layer = arena_.bad_layer[row];
            // What the sampler says of the same value does not name the layer.
            const bool sampled = result.status.code() == StatusCode::RUNTIME_NAN_DETECTED && layer < static_cast<int32_t>(plan_.layers);
            if (result.status.ok() || sampled) {
                result.status = Status(StatusCode::RUNTIME_NAN_DETECTED, format("a value of position %u is not finite (layer %d)", positions_[row], layer))
                                    .with("layer", layer)
                                    .with("token", positions_[row]);
            }
            break;
        }
        Sequence& sequence = *items_[i].sequence;
        if (result.status.ok()) {
            sequence.length += items_[i].count;
            if (sequence.prefix) model_.prefix_->extend(sequence, items_[i]);
        } else {
            result.sampled = {};
            if (sequence.prefix) model_.prefix_->forget(sequence);
        }
    }
}

}  // namespace tmoe
