// Runs one step of a plan: a list of operations over the arena's buffers.
#pragma once
#include <vector>

#include "core/arena.h"
#include "core/model.h"
#include "core/prefetcher.h"

namespace tmoe {

class Executor {
  public:
    Executor(Model& model, Backend& backend, std::vector<StepItem>& items, const std::atomic<bool>* cancel, StepResult& result)
        : model_(model), plan_(model.plan_), arena_(*model.arena_), backend_(backend), context_{*backend.kernels, backend.pool, cancel},
          items_(items), result_(result) {}

    Status run();

  protected:
    /** A row whose logits are wanted, and the item that it belongs to. */
    struct LogitRow {
        uint32_t row, item;
    };
    Status prepare();
    Status check_forced(size_t index) const;
    /** Before a store's first layer of the step. */
    Status begin_store();
    StepShape shape() const;
    std::vector<LogitRow> logit_rows() const;
    Status run_op(size_t index);
    void expect_from(size_t index);
    std::vector<MatmulTarget> targets_of(const PlanOp& op);
    AttentionArgs attention_args(const PlanOp& op, size_t first_item, size_t count);
    Status embed(const PlanOp& op);
    Status rms_norm(const PlanOp& op);
    Status scale(const PlanOp& op);
    Status matmul(const PlanOp& op);
    Status rope(const PlanOp& op, size_t index);
    Status attention(const PlanOp& op);
    Status gated(const PlanOp& op);
    Status head_matmul(const PlanOp& op);
    Status route(const PlanOp& op);
    template <class Buffers> void fill_route(const PlanOp& op, size_t layer, const float* states, Buffers& to, RouteArgs& args, HserRouting& hser);
    void use_masks(RouteArgs& args, size_t layer);
    void force_routes();
    void capture_routes();
    Status experts(const PlanOp& op, size_t index);
    size_t split_versions(size_t experts);
    void add_biases(const PlanOp& op, ExpertMatmulArgs& e);
    Status stored_experts(const PlanOp& op, ExpertMatmulArgs& e, const Weight& gate, const Weight& up, const Weight& down);
    Status resident_experts(const PlanOp& op, ExpertMatmulArgs& e, const Weight& gate, const Weight& up, const Weight& down);
    void read_ahead(size_t seen, const float* states);
    bool norm_foreseen(size_t layer, float* states) const;
    Status logits(const PlanOp& op);
    void commit();
    /** An optional vector of the plan; null = it has none. */
    const float* vector_of(uint32_t tensor) const { return tensor == kNoTensor ? nullptr : model_.weights_[tensor].data.as<float>(); }
    NonFinite flags() { return {arena_.bad.get()}; }
    void note_layer(int32_t layer);

    Model& model_;
    const Plan& plan_;
    Model::Arena& arena_;
    Backend& backend_;
    Context context_;
    std::vector<StepItem>& items_;
    StepResult& result_;
    size_t tokens_ = 0;
    std::vector<int32_t> ids_;
    std::vector<uint32_t> positions_;
    std::vector<size_t> first_row_;             ///< of each item
    std::vector<AttentionRun> runs_;
    const PlanOp* routed_ = nullptr;            ///< the last route, and how many came before it
    size_t routed_layer_ = 0, routed_layers_ = 0;
    bool all_forced_ = true, any_forced_ = false, any_captured_ = false, any_masked_ = false;
    std::vector<uint32_t> use_;                 ///< [layers][experts]: tokens that went to each
    std::vector<const uint8_t*> masks_;         ///< of each token, in one layer
    std::vector<int32_t> split_ids_;            ///< the routes, with versions as experts of their own
    std::vector<uint32_t> split_offsets_;
    std::vector<uint32_t> bias_of_;             ///< whose biases an expert has, where versions are experts of their own
    std::vector<uint32_t> wanted_, part_, ahead_;   ///< experts: of a layer, of those that are in memory, to be read ahead
    std::vector<ReadyExpert> ready_;
};

}  // namespace tmoe
