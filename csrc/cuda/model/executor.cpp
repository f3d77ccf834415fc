#include "cuda/model/executor.h"

#include <algorithm>
#include <cstring>

namespace tmoe {
namespace cuda {

namespace {

Status cancelled() { return Status(StatusCode::CANCELLED, "the step was cancelled"); }

DeviceSequence& cache_of(const StepItem& item) { return static_cast<DeviceSequence&>(*item.sequence->device); }

}  // namespace

Status Executor::run() {
    TMOE_RETURN_IF_ERROR(prepare());
    TMOE_RETURN_IF_ERROR(begin_store());
    if (device_.experts()) device_.slots_->begin_step(shape());
    device_.data_.begin();
    Status status = run_ops();
    // Whatever happened: nothing of this step is under way any more when it has ended.
    const Status copied = device_.copies_.wait(), waited = stream_.wait();
    TMOE_RETURN_IF_ERROR(std::move(status));
    TMOE_RETURN_IF_ERROR(waited);
    TMOE_RETURN_IF_ERROR(copied);
    TMOE_RETURN_IF_ERROR(read_back());
    commit();
    return {};
}

Status Executor::run_ops() {
    TMOE_RETURN_IF_ERROR(send_step());
    for (size_t i = 0; i < plan_.ops.size(); i++) {
        if (context_.cancel && context_.cancel->load(std::memory_order_relaxed)) return cancelled();
        TMOE_RETURN_IF_ERROR(run_op(i));
    }
    uint8_t* to = memory_.back.data();
    const size_t choices = model_.routing().layers * tokens_ * model_.routing().k;
    TMOE_RETURN_IF_ERROR(stream_.to_host(to, memory_.marks.data(), tokens_ * sizeof(uint32_t)));
    to += model_.max_batch() * sizeof(uint32_t);
    TMOE_RETURN_IF_ERROR(stream_.to_host(to, memory_.outcomes.data(), sampled_.size() * sizeof(SampleOutcome)));
    to += model_.max_batch() * sizeof(SampleOutcome);
    TMOE_RETURN_IF_ERROR(stream_.to_host(to, memory_.ids.data(), choices * sizeof(int32_t)));
    if (any_captured_) TMOE_RETURN_IF_ERROR(stream_.to_host(to + choices * sizeof(int32_t), memory_.weights.data(), choices * sizeof(float)));
    return {};
}

/** Tokens, positions, pages, masks and angles. */
Status Executor::send_step() {
    std::vector<uint32_t> first_pages;
    std::vector<uint8_t*> pages;
    uint64_t missing = 0;
    for (const StepItem& item : items_) {
        Sequence& sequence = *item.sequence;
        if (!sequence.device) sequence.device = std::make_shared<DeviceSequence>(sequence.layer_bytes * plan_.layers, device_.kv_held_);
        missing += cache_of(item).missing_bytes(sequence.length + item.count);
    }
    TMOE_RETURN_IF_ERROR(device_.make_room(missing));
    for (const StepItem& item : items_) {
        DeviceSequence& cache = cache_of(item);
        TMOE_RETURN_IF_ERROR(cache.reserve(item.sequence->length + item.count));
        first_pages.insert(first_pages.end(), item.count, static_cast<uint32_t>(pages.size()));
        for (const DeviceBuffer& page : cache.pages()) pages.push_back(page.data());
    }
    StepData& data = device_.data_;
    TMOE_RETURN_IF_ERROR(data.send(stream_, ids_, token_ids_));
    TMOE_RETURN_IF_ERROR(data.send(stream_, positions_, token_positions_));
    TMOE_RETURN_IF_ERROR(data.send(stream_, first_pages, first_pages_));
    TMOE_RETURN_IF_ERROR(data.send(stream_, pages, pages_));
    cosines_.resize(arena_.rope_tables.size());
    sines_.resize(arena_.rope_tables.size());
    for (size_t table = 0; table < arena_.rope_tables.size(); table++) {
        const size_t count = tokens_ * (arena_.rope_tables[table].rotary_dim() / 2);
        TMOE_RETURN_IF_ERROR(data.send(stream_, arena_.cosines.as<float>() + table * arena_.rope_stride, count, cosines_[table]));
        TMOE_RETURN_IF_ERROR(data.send(stream_, arena_.sines.as<float>() + table * arena_.rope_stride, count, sines_[table]));
    }
    TMOE_RETURN_IF_ERROR(stream_.fill(memory_.marks.data(), 0xff, tokens_ * sizeof(uint32_t)));
    if (!any_masked_) return {};
    const RoutingShape& shape = model_.routing();
    std::vector<const uint8_t*> masks(shape.layers * tokens_, nullptr);
    for (size_t i = 0; i < items_.size(); i++) {
        if (!items_[i].enabled) continue;
        uint8_t* mask = nullptr;
        TMOE_RETURN_IF_ERROR(data.send(stream_, items_[i].enabled, shape.mask_size(), mask));
        for (size_t layer = 0; layer < shape.layers; layer++) {
            std::fill_n(masks.begin() + static_cast<ptrdiff_t>(layer * tokens_ + first_row_[i]), items_[i].count, mask + layer * shape.experts);
        }
    }
    return data.send(stream_, masks, layer_masks_);
}

Status Executor::run_op(size_t index) {
    const PlanOp& op = plan_.ops[index];
    const Marks marks = {memory_.marks.as<uint32_t>(), static_cast<uint32_t>(device_.mark_of_op_[index])};
    switch (op.kind) {
        case OpKind::Embed: return embed(op);
        case OpKind::RmsNorm: return rms_norm(op, marks);
        case OpKind::Matmul: return matmul(op, marks);
        case OpKind::Rope: return rope(op, index);
        case OpKind::Attention: return attention(op);
        case OpKind::Route: return route(op, index);
        case OpKind::Experts: return experts(op, marks);
        case OpKind::Logits: return logits(op, marks);
        case OpKind::Gated: return gated(op, marks);
        case OpKind::HeadMatmul: return head_matmul(op, marks);
        case OpKind::Scale: return cuda::scale(stream_, memory_.buffer(op.in), tokens_ * plan_.buffer_widths[op.in], op.scale);
    }
    return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, "an operation has no executor");
}

Status Executor::embed(const PlanOp& op) {
    const DeviceWeight& table = device_.weights_[op.weight];
    return cuda::embed(stream_, {{table.type, table.rows, table.columns, table.data.data()}, token_ids_, tokens_, memory_.buffer(op.out)});
}

Status Executor::rms_norm(const PlanOp& op, Marks marks) {
    const DeviceWeight& weight = device_.weights_[op.weight];
    const size_t width = plan_.buffer_widths[op.in], rows = op.runs ? op.runs : width / weight.columns;
    return cuda::rms_norm(stream_, {memory_.buffer(op.in), weight.data.as<float>(), tokens_ * rows, weight.columns, op.epsilon, memory_.buffer(op.out), rows, marks, width});
}

Status Executor::activations(const float* from, size_t rows, size_t columns, bool quantised, Marks marks, DeviceActivations& out) {
    out.columns = out.value_stride = columns;
    out.values = from;
    if (!quantised) return {};
    QuantiseCall call = memory_.activations.call(from, rows, columns);
    call.marks = marks;
    memory_.activations.attach(out);
    return quantise(stream_, call);
}

Status Executor::matmul(const PlanOp& op, Marks marks) {
    bool quantised = false;
    for (const MatmulPart& part : op.parts) quantised = quantised || is_quantised(device_.weights_[part.weight].type);
    MatmulCall call;
    TMOE_RETURN_IF_ERROR(activations(memory_.buffer(op.in), tokens_, plan_.buffer_widths[op.in], quantised, marks, call.a));
    call.count = tokens_;
    call.add = op.add;
    for (const MatmulPart& part : op.parts) {
        call.weight = device_.weights_[part.weight].stack();
        call.weight.shape.bias = vector(part.bias);
        call.out = memory_.buffer(part.out);
        call.out_stride = plan_.buffer_widths[part.out];
        TMOE_RETURN_IF_ERROR(cuda::matmul(stream_, device_.facts_, call));
    }
    return {};
}

Status Executor::rope(const PlanOp& op, size_t index) {
    const size_t table = arena_.rope_of_op[index], width = plan_.buffer_widths[op.in];
    RopeCall call = {memory_.buffer(op.in), tokens_, op.heads, op.head_dim, op.rotary_dim / 2, cosines_[table], sines_[table], op.pairs, op.offset};
    if (width == call.heads * call.head_dim) return cuda::rope(stream_, call);
    return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, "rope: the buffer is wider than its heads");
}

Status Executor::attention(const PlanOp& op) {
    AttentionCall call = {};
    call.heads = op.heads;
    call.kv_heads = op.kv_heads;
    call.head_dim = op.head_dim;
    call.value_dim = op.value_dim;
    call.scale = op.scale;
    if (op.v_buffer == op.k_buffer) call.value_stride = op.head_dim;
    call.window = op.window;
    call.sinks = vector(op.sinks);
    call.pages = pages_;
    for (size_t i = 0; i < items_.size();) {  // one call per run of items with one KV type; nearly always one
        const Sequence& first = *items_[i].sequence;
        const size_t row = first_row_[i];
        call.type = first.type;
        call.layer_offset = op.layer * first.layer_bytes;
        call.tokens = call.most_visible = 0;
        for (; i < items_.size() && items_[i].sequence->type == call.type; i++) {
            call.tokens += items_[i].count;
            call.most_visible = std::max<size_t>(call.most_visible, items_[i].sequence->length + items_[i].count);
        }
        call.q = memory_.buffer(op.in) + row * plan_.buffer_widths[op.in];
        call.k = memory_.buffer(op.k_buffer) + row * plan_.buffer_widths[op.k_buffer];
        call.v = memory_.buffer(op.v_buffer) + row * plan_.buffer_widths[op.v_buffer];
        call.out = memory_.buffer(op.out) + row * plan_.buffer_widths[op.out];
        call.positions = token_positions_ + row;
        call.first_pages = first_pages_ + row;
        TMOE_RETURN_IF_ERROR(memory_.scores.reserve(call.most_visible * sizeof(float)));
        call.scores = memory_.scores.as<float>();
        call.score_rows = std::min(call.tokens * call.heads, memory_.scores.size() / sizeof(float) / call.most_visible);
        TMOE_RETURN_IF_ERROR(cuda::attention(stream_, call));
    }
    return {};
}

Status Executor::gated(const PlanOp& op, Marks marks) {
    return cuda::gated(stream_, {memory_.buffer(op.in), memory_.buffer(op.gate), tokens_, plan_.buffer_widths[op.in], op.gate_form == GateForm::Sigmoid, marks});
}

Status Executor::head_matmul(const PlanOp& op, Marks marks) {
    const DeviceWeight& weight = device_.weights_[op.weight];
    const size_t heads = weight.experts, from = plan_.buffer_widths[op.in] / heads, to = plan_.buffer_widths[op.out] / heads, carried = from - weight.columns;
    const float* x = memory_.buffer(op.in);
    MatmulCall call;
    call.weight = weight.stack();
    call.a.columns = weight.columns;
    call.a.value_stride = from;
    call.a.values = x;
    call.count = tokens_;
    call.heads = call.expert_count = heads;
    call.head_stride = to;
    call.out = memory_.buffer(op.out);
    call.out_stride = plan_.buffer_widths[op.out];
    if (is_quantised(weight.type)) {
        QuantiseCall rows = memory_.activations.call(x, tokens_ * heads, weight.columns);
        rows.stride = from;
        rows.k = static_cast<uint32_t>(heads);
        rows.marks = marks;
        memory_.activations.attach(call.a);
        TMOE_RETURN_IF_ERROR(quantise(stream_, rows));
    }
    if (carried) TMOE_RETURN_IF_ERROR(carry(stream_, {x, tokens_ * heads, weight.columns, weight.rows, carried, call.out}));
    return cuda::matmul(stream_, device_.facts_, call);
}

Status Executor::route(const PlanOp& op, size_t index) {
    routed_ = &op;
    routed_layer_ = routed_layers_++;
    RouteArgs args = {};
    HserRouting hser = {};
    model_.describe_route(op, args, hser);
    const auto place = [&](RouterView& view, uint32_t weight) { view.weights = device_.weights_[weight].data.as<int32_t>(); };
    place(args.router, op.weight);
    if (op.form == RouteForm::Hser) {
        place(hser.tiers, op.hser.tier_router);
        place(hser.groups, op.hser.group_router);
        hser.tier_groups = device_.hser_[index].tier_groups.as<uint32_t>();
        hser.group_experts = device_.hser_[index].group_experts.as<uint32_t>();
    }
    if (op.bias != kNoTensor) args.bias = device_.weights_[op.bias].data.as<int32_t>();
    if (op.selection_bias != kNoTensor) args.selection_bias = device_.weights_[op.selection_bias].data.as<int64_t>();
    if (!args.ranks_by_scores()) args.ranks = memory_.ranks.as<int64_t>();
    args.states = memory_.buffer(op.in);
    args.tokens = tokens_;
    args.positions = token_positions_;
    args.masks = layer_masks_ ? layer_masks_ + routed_layer_ * tokens_ : nullptr;
    args.ids = layer_ids(routed_layer_);
    args.weights = layer_weights(routed_layer_);
    args.scores = memory_.scores24.as<int64_t>();
    args.states24 = memory_.states24.as<int32_t>();
    args.probabilities = memory_.probabilities.as<float>();
    if (!all_forced_) TMOE_RETURN_IF_ERROR(cuda::route(stream_, args, hser));
    return any_forced_ ? replace_forced() : Status();
}

/** Replay: the choices of items that bring their own take the place of what was routed. */
Status Executor::replace_forced() {
    force_routes();  // into the host's arrays, rows of such items alone
    const size_t k = routed_->k;
    for (size_t i = 0; i < items_.size(); i++) {
        if (!items_[i].forced_ids) continue;
        const size_t at = first_row_[i] * k, count = items_[i].count * k;
        int32_t* ids = nullptr;
        float* weights = nullptr;
        TMOE_RETURN_IF_ERROR(device_.data_.send(stream_, arena_.ids.as<int32_t>() + at, count, ids));
        TMOE_RETURN_IF_ERROR(device_.data_.send(stream_, arena_.weights.as<float>() + at, count, weights));
        TMOE_RETURN_IF_ERROR(stream_.on_device(layer_ids(routed_layer_) + at, ids, count * sizeof(int32_t)));
        TMOE_RETURN_IF_ERROR(stream_.on_device(layer_weights(routed_layer_) + at, weights, count * sizeof(float)));
    }
    return {};
}

Status Executor::experts(const PlanOp& op, Marks marks) {
    const DeviceWeight &gate = device_.weights_[op.gate], &up = device_.weights_[op.up], &down = device_.weights_[op.down];
    const size_t k = routed_->k, width = plan_.buffer_widths[op.in];
    const DispatchCall dispatched = {{layer_ids(routed_layer_), tokens_, k, gate.experts, memory_.offsets.as<uint32_t>(), memory_.slots.as<uint32_t>(), memory_.rows.as<uint32_t>()},
                                     memory_.counts.as<uint32_t>()};
    TMOE_RETURN_IF_ERROR(dispatch(stream_, dispatched));
    ExpertCall call = {};
    call.x = memory_.buffer(op.in);
    call.tokens = tokens_;
    call.width = width;
    call.k = k;
    call.experts = gate.experts;
    call.gate = gate.stack();
    call.up = up.stack();
    call.down = down.stack();
    call.gate.shape.bias = vector(op.gate_bias);
    call.up.shape.bias = vector(op.up_bias);
    call.down.shape.bias = vector(op.down_bias);
    call.activation = op.activation;
    call.offsets = dispatched.args.offsets;
    call.slots = dispatched.args.slots;
    call.out = memory_.values.as<float>();
    call.marks = marks;
    const auto layer = static_cast<uint32_t>(routed_layer_);
    if (device_.experts()) {
        int32_t* ids = arena_.ids.as<int32_t>();
        TMOE_RETURN_IF_ERROR(stream_.to_host(ids, layer_ids(routed_layer_), tokens_ * k * sizeof(int32_t)));
        TMOE_RETURN_IF_ERROR(stream_.wait());
        TMOE_RETURN_IF_ERROR(device_.slots_->run_layer(layer, ids, tokens_ * k, call, memory_.experts, device_.facts_, stream_, device_.data_, context_.cancel));
    } else if (device_.slots_) {
        TMOE_RETURN_IF_ERROR(device_.slots_->run_settled(layer, call, memory_.experts, device_.facts_, stream_));
    } else {
        TMOE_RETURN_IF_ERROR(expert_matmul(stream_, device_.facts_, call, memory_.experts));
    }
    result_.expert_rows = tokens_ * k;
    return combine(stream_, {call.out, layer_ids(routed_layer_), layer_weights(routed_layer_), dispatched.args.rows, tokens_, k, width, gate.experts, true, memory_.buffer(op.out)});
}

/** Logits of the rows asked for, kLogitRows at a time; each part is handed out and sampled from before the next. */
Status Executor::logits(const PlanOp& op, Marks marks) {
    const DeviceWeight& weight = device_.weights_[op.weight];
    const size_t width = plan_.buffer_widths[op.in], vocab = plan_.vocab;
    const std::vector<LogitRow> wanted = logit_rows();
    std::vector<size_t> given(items_.size(), 0);   // positions handed out so far
    for (size_t begin = 0; begin < wanted.size(); begin += kLogitRows) {
        const size_t count = std::min(kLogitRows, wanted.size() - begin);
        std::vector<uint32_t> rows, sampled_rows;
        std::vector<int32_t> lists;
        std::vector<SampleRow> wishes;
        const size_t first_outcome = sampled_.size();
        for (size_t i = 0; i < count; i++) {
            const auto [row, index] = wanted[begin + i];
            const StepItem& item = items_[index];
            rows.push_back(row);
            if (!item.sample || row != first_row_[index] + item.count - 1) continue;
            sampled_rows.push_back(static_cast<uint32_t>(i));
            wishes.push_back(describe_sample(item.sampling, item.sequence->length + item.count, vocab, lists));
            sampled_.push_back(index);
        }
        uint32_t *device_rows = nullptr, *device_sampled = nullptr;
        int32_t* device_lists = nullptr;
        SampleRow* device_wishes = nullptr;
        TMOE_RETURN_IF_ERROR(device_.data_.send(stream_, rows, device_rows));
        TMOE_RETURN_IF_ERROR(device_.data_.send(stream_, sampled_rows, device_sampled));
        TMOE_RETURN_IF_ERROR(device_.data_.send(stream_, lists, device_lists));
        TMOE_RETURN_IF_ERROR(device_.data_.send(stream_, wishes, device_wishes));
        float *gathered = memory_.gathered.as<float>(), *out = memory_.logits.as<float>();
        TMOE_RETURN_IF_ERROR(gather_rows(stream_, memory_.buffer(op.in), device_rows, count, width, gathered));
        MatmulCall call;
        TMOE_RETURN_IF_ERROR(activations(gathered, count, width, is_quantised(weight.type), {}, call.a));
        call.weight = weight.stack();
        call.count = count;
        call.out = out;
        call.out_stride = vocab;
        TMOE_RETURN_IF_ERROR(cuda::matmul(stream_, device_.facts_, call));
        // A state that is not finite shows in its logits too, or quantises to zeros: both are looked at.
        TMOE_RETURN_IF_ERROR(mark_not_finite(stream_, {gathered, count, width, device_rows, marks}));
        TMOE_RETURN_IF_ERROR(mark_not_finite(stream_, {out, count, vocab, device_rows, marks}));
        TMOE_RETURN_IF_ERROR(sample(stream_, {out, device_sampled, sampled_rows.size(), vocab, device_wishes, device_lists, memory_.adjusted.as<float>(), memory_.sorted_probabilities.as<float>(),
                                              memory_.keys.as<uint64_t>(), memory_.outcomes.as<SampleOutcome>() + first_outcome}));
        for (size_t i = 0; i < count; i++) {
            const uint32_t index = wanted[begin + i].item;
            if (!items_[index].logits_out) continue;
            TMOE_RETURN_IF_ERROR(stream_.to_host(items_[index].logits_out + given[index]++ * vocab, out + i * vocab, vocab * sizeof(float)));
        }
    }
    return {};
}

/** What came back becomes what the CPU's executor would have found. */
Status Executor::read_back() {
    const RoutingShape& shape = model_.routing();
    const uint8_t* from = memory_.back.data();
    const auto* marks = reinterpret_cast<const uint32_t*>(from);
    for (size_t t = 0; t < tokens_; t++) {
        if (marks[t] == UINT32_MAX) continue;
        arena_.bad[t].store(1, std::memory_order_relaxed);
        arena_.bad_layer[t] = static_cast<int32_t>(marks[t]);
    }
    from += model_.max_batch() * sizeof(uint32_t);
    for (size_t i = 0; i < sampled_.size(); i++) {
        SampleOutcome outcome;
        memcpy(&outcome, from + i * sizeof outcome, sizeof outcome);
        const StepItem& item = items_[sampled_[i]];
        StepItemResult& result = result_.items[sampled_[i]];
        result.status = read_sample(outcome, item.sampling, item.sequence->length + item.count, plan_.vocab, result.sampled);
        // The row's logits were marked too: told with its layer and position, as on the CPU.
        const size_t row = first_row_[sampled_[i]] + item.count - 1;
        if (result.status.code() == StatusCode::RUNTIME_NAN_DETECTED && marks[row] != UINT32_MAX) result.status = {};
    }
    from += model_.max_batch() * sizeof(SampleOutcome);
    const size_t choices = tokens_ * shape.k;
    for (size_t layer = 0; layer < routed_layers_; layer++) {
        routed_layer_ = layer;
        memcpy(arena_.ids.as<int32_t>(), from + layer * choices * sizeof(int32_t), choices * sizeof(int32_t));
        for (size_t i = 0; i < choices; i++) use_[layer * shape.experts + static_cast<size_t>(arena_.ids.as<int32_t>()[i])]++;
        if (!any_captured_) continue;
        memcpy(arena_.weights.as<float>(), from + (shape.layers * sizeof(int32_t) + layer * sizeof(float)) * choices, choices * sizeof(float));
        capture_routes();
    }
    return {};
}

}  // namespace cuda
}  // namespace tmoe
