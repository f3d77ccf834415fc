#include "cuda/model/device_model.h"

#include <new>

#include "core/arena.h"
#include "cuda/model/executor.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr size_t kScoreFloats = size_t{1} << 22;       // of attention from the start: 16 MiB

size_t routed_layers(const Plan& plan) {
    size_t count = 0;
    for (const PlanOp& op : plan.ops) count += op.kind == OpKind::Route;
    return count;
}

/** Most that a step's StepData holds where a layer's experts come in eight waves or fewer. */
uint64_t sent_bytes(const Plan& plan, const StepSizes& s, size_t batch) {
    constexpr size_t kPieceRounding = 256, kWaves = 8;
    const uint64_t layers = routed_layers(plan), mask = layers * s.experts;
    const uint64_t token = 3 * sizeof(uint32_t) + s.tables.size() * s.rotary * sizeof(float) + layers * (sizeof(void*) + s.k * 2 * sizeof(float)) + mask + 3 * kPieceRounding;
    const uint64_t wave = 2 * (s.experts * (sizeof(void*) + sizeof(uint32_t)) + 2 * kPieceRounding);
    return 2 * (batch * token + layers * kWaves * wave) + StepData::kChunkBytes;  // twice: what a chunk's end has no room for
}

/** Rows whose activations are quantised together. */
size_t quantised_rows(size_t batch) { return batch > kLogitRows ? batch : kLogitRows; }

}  // namespace

std::vector<StepMemory::Block> StepMemory::blocks(const Plan& plan, const StepSizes& s, size_t batch) {
    const size_t layers = routed_layers(plan), logits_rows = kLogitRows * size_t{plan.vocab};
    std::vector<Block> out = {
        {&marks, batch * sizeof(uint32_t)},
        {&ids, layers * batch * s.k * sizeof(int32_t)},
        {&weights, layers * batch * s.k * sizeof(float)},
        {&scores24, batch * s.router_rows * sizeof(int64_t)},
        {&ranks, batch * s.ranked * sizeof(int64_t)},
        {&states24, batch * s.routed_width * sizeof(int32_t)},
        {&probabilities, batch * s.router_rows * sizeof(float)},
        {&offsets, (s.experts + 1) * sizeof(uint32_t)},
        {&slots, batch * s.k * sizeof(uint32_t)},
        {&rows, batch * s.k * sizeof(uint32_t)},
        {&counts, s.experts * sizeof(uint32_t)},
        {&values, batch * s.value_rows() * s.model_width * sizeof(float)},
        {&scores, kScoreFloats * sizeof(float)},
        {&gathered, kLogitRows * s.model_width * sizeof(float)},
        {&logits, logits_rows * sizeof(float)},
        {&adjusted, logits_rows * sizeof(float)},
        {&sorted_probabilities, logits_rows * sizeof(float)},
        {&keys, kLogitRows * sort_size(plan.vocab) * sizeof(uint64_t)},
        {&outcomes, batch * sizeof(SampleOutcome)},
    };
    buffers.resize(plan.buffer_widths.size());
    for (size_t i = 0; i < buffers.size(); i++) out.push_back({&buffers[i], batch * plan.buffer_widths[i] * sizeof(float)});
    return out;
}

Status StepMemory::allocate(const Plan& plan, size_t batch) {
    const StepSizes s(plan);
    for (const Block& block : blocks(plan, s, batch)) TMOE_RETURN_IF_ERROR(block.buffer->allocate(block.bytes));
    TMOE_RETURN_IF_ERROR(activations.reserve(quantised_rows(batch), round_up(s.width, 32)));
    if (s.hidden) TMOE_RETURN_IF_ERROR(experts.reserve(batch, s.k, round_up(s.model_width, 32), round_up(s.hidden, 32)));
    const size_t choices = routed_layers(plan) * batch * s.k;
    return back.allocate(batch * sizeof(uint32_t) + batch * sizeof(SampleOutcome) + choices * (sizeof(int32_t) + sizeof(float)));
}

uint64_t StepMemory::bytes(const Plan& plan, size_t batch) {
    const StepSizes s(plan);
    const size_t width = round_up(s.width, 32), hidden = round_up(s.hidden, 32);
    uint64_t sum = sent_bytes(plan, s, batch) + ExpertMemory::Rows::bytes(quantised_rows(batch), width);
    if (hidden) sum += ExpertMemory::bytes(batch, s.k, round_up(s.model_width, 32), hidden);
    StepMemory none;
    for (const Block& block : none.blocks(plan, s, batch)) sum += round_up(block.bytes, 256);
    return sum;
}

Status DeviceModel::create(const DeviceFacts& facts, Model& model, const LoadOptions& options, std::unique_ptr<ModelDevice>& out) {
    std::unique_ptr<DeviceModel> made(new (std::nothrow) DeviceModel(facts, model));
    if (!made) return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, "cannot allocate a model");
    DeviceFacts seen;
    TMOE_RETURN_IF_ERROR(open_device(facts.ordinal, seen));  // for this thread
    TMOE_RETURN_IF_ERROR(made->compute_.open());
    TMOE_RETURN_IF_ERROR(made->copies_.open());
    made->slot_budget_ = options.experts.device_bytes;
    made->kv_share_ = options.experts.device_kv_bytes;
    made->whole_ = options.experts.device_whole_bytes;
    made->policy_ = options.experts.policy;
    made->seed_ = options.experts.seed;
    made->placement_ = options.experts.placement;
    made->weights_.resize(model.plan().tensors.size());
    out = std::move(made);
    return {};
}

Status DeviceModel::take(size_t index, Weight& weight) {
    DeviceWeight& to = weights_[index];
    TMOE_RETURN_IF_ERROR(to.data.allocate(weight.data.size()));
    TMOE_RETURN_IF_ERROR(compute_.to_device(to.data.data(), weight.data.data(), weight.data.size()));
    TMOE_RETURN_IF_ERROR(compute_.wait());
    weight.data.release();
    return {};
}

Status DeviceModel::finish(const std::atomic<bool>* cancel) {
    const Plan& plan = model_.plan();
    for (size_t i = 0; i < weights_.size(); i++) {
        const Weight& from = model_.weights_[i];
        DeviceWeight& to = weights_[i];
        to.type = from.type;
        to.rows = from.rows;
        to.columns = from.columns;
        to.experts = from.experts;
        to.expert_bytes = from.expert_bytes;
        to.exponent = from.exponent;
    }
    hser_.resize(plan.ops.size());
    mark_of_op_.resize(plan.ops.size());
    auto mark = static_cast<int32_t>(plan.layers);
    for (size_t i = plan.ops.size(); i-- > 0;) {  // as Executor::note_layer is called on the CPU: at the begin of attention, at the end of experts
        const PlanOp& op = plan.ops[i];
        if (op.kind == OpKind::Experts) mark = static_cast<int32_t>(op.layer);
        mark_of_op_[i] = mark;
        if (op.kind == OpKind::Attention) mark = static_cast<int32_t>(op.layer);
        if (op.kind != OpKind::Route || op.form != RouteForm::Hser) continue;
        const auto upload = [&](const std::vector<uint32_t>& from, DeviceBuffer& to) -> Status {
            TMOE_RETURN_IF_ERROR(to.allocate(from.size() * sizeof(uint32_t)));
            return compute_.to_device(to.data(), from.data(), to.size());
        };
        TMOE_RETURN_IF_ERROR(upload(op.hser.tier_groups, hser_[i].tier_groups));
        TMOE_RETURN_IF_ERROR(upload(op.hser.group_experts, hser_[i].group_experts));
    }
    TMOE_RETURN_IF_ERROR(memory_.allocate(plan, model_.max_batch()));
    TMOE_RETURN_IF_ERROR(compute_.wait());
    if (!model_.store_) return {};
    HotOptions hot;
    hot.layers = model_.routing().layers;
    hot.experts = model_.routing().experts;
    hot.slot_bytes = model_.slot_bytes_;
    hot.policy = policy_;
    hot.seed = seed_;
    hot.trace = model_.trace_;
    const uint64_t bytes = slot_budget_ > 0 ? slot_budget_ : uint64_t{hot.slot_bytes} * model_.routing().mask_size();
    TMOE_RETURN_IF_ERROR(ExpertSlots::create(hot, model_.store_, bytes, copies_, slots_));
    TMOE_RETURN_IF_ERROR(slots_->fill(placement_, cancel));
    if (hot.trace || !slots_->hold_all()) return {};
    TMOE_RETURN_IF_ERROR(slots_->settle());
    model_.store_->close();
    model_.store_.reset();
    model_.weight_bytes_ += bytes - model_.expert_budget_;
    return {};
}

Status DeviceModel::step(Backend& backend, std::vector<StepItem>& items, const std::atomic<bool>* cancel, StepResult& result) {
    return Executor(model_, *this, backend, items, cancel, result).run();
}

Status DeviceModel::make_room(uint64_t missing) {
    if (!slots_ || whole_ == 0) return {};  // no limit was set
    const uint64_t wanted = static_cast<uint64_t>(kv_held_->load()) + missing, both = slot_budget_ + kv_share_;
    const uint64_t left = both > wanted ? both - wanted : 0, slots = slots_->bytes();
    if (slots <= left && (slots_->settled() || slots_->whole())) return {};
    Status status = slots_->settled() ? Status(StatusCode::RESOURCE_BUDGET_TOO_SMALL, "every expert has its slot for good") : slots_->set_budget(std::min(left, slots));
    if (status.code() != StatusCode::RESOURCE_BUDGET_TOO_SMALL) return status;
    const uint64_t available = both > slots ? both - slots : 0, enough = whole_ + wanted - std::min(wanted, available);
    return Status(StatusCode::GPU_VRAM_EXHAUSTED,
                  format("the KV cache of all sequences needs %llu bytes of GPU memory, experts leave it %llu (%s); gpuMemory of %llu would do",
                         static_cast<unsigned long long>(wanted), static_cast<unsigned long long>(available), status.message().c_str(), static_cast<unsigned long long>(enough)))
        .with("required", static_cast<double>(wanted))
        .with("available", static_cast<double>(available))
        .with("limit", static_cast<double>(whole_))
        .with("gpuMemory", static_cast<double>(enough));
}

DeviceSequence::~DeviceSequence() {
    const auto bytes = static_cast<int64_t>(pages_.size() * page_bytes_);
    pages_.clear();
    *held_ -= bytes;
}

uint64_t DeviceSequence::missing_bytes(size_t positions) const {
    const size_t wanted = (positions + kKvPage - 1) / kKvPage;
    return wanted > pages_.size() ? uint64_t{wanted - pages_.size()} * page_bytes_ : 0;
}

Status DeviceSequence::reserve(size_t positions) {
    while (pages_.size() * kKvPage < positions) {
        DeviceBuffer page;
        *held_ += static_cast<int64_t>(page_bytes_);
        Status status = page.allocate(page_bytes_);
        if (!status.ok()) {
            *held_ -= static_cast<int64_t>(page_bytes_);
            return status;
        }
        pages_.push_back(std::move(page));
    }
    return {};
}

}  // namespace cuda
}  // namespace tmoe
