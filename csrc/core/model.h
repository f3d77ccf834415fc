// A loaded model: weights in the kernels' layout, its plan, and the executor of one step.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "core/expert_use.h"
#include "core/expert_versions.h"
#include "core/held_block.h"
#include "core/memory.h"
#include "core/model_device.h"
#include "core/plan.h"
#include "core/prefix_cache.h"
#include "core/sampling.h"
#include "core/store/expert_store.h"

namespace tmoe {

/** Threads, kernels and the queue of work of one backend. Bindings keep it in a shared_ptr; jobs keep a copy. */
struct Backend {
    Isa isa = Isa::Scalar;
    const Kernels* kernels = nullptr;
    ThreadPool pool;
    JobQueue queue;
    std::shared_ptr<BackendDevice> device;   ///< computes the steps; null = the CPU does

    /** `isa`: "auto" or a name; threads ≥ 1; `device`: its number, where the addon is for a device. ISA_UNSUPPORTED {isa, available}, RESOURCE_MEMORY_EXHAUSTED, what attach_device gives. */
    static Status create(const char* isa, size_t threads, int device, std::shared_ptr<Backend>& out);
};

/** A tensor as the kernels read it. */
struct Weight {
    TensorRole role = TensorRole::Vector;
    DType type = DType::F32;
    size_t columns = 0, rows = 1, experts = 1;
    HeadCut cut = {};             ///< Heads: as the plan has it
    Buffer data;
    size_t expert_bytes = 0;      ///< Experts and heads (counted as experts): distance of one packed matrix from the next
    int exponent = 0;             ///< Router, RouterBias: w = q · 2^(exponent - 23)

    /** Of experts: the first. */
    MatrixView matrix() const { return {type, rows, columns, data.data()}; }
};

struct LoadProgress {
    std::string tensor;
    size_t index, count;
    uint64_t bytes_done, bytes_total;
};

/** Whether experts that the next layer will probably want are read ahead. Auto: where that pays, layer by layer. */
enum class PrefetchMode : uint32_t { Off, On, Auto };

/** Where a tiered checkpoint keeps its experts; empty = in the GGUF file. */
struct ExpertBlobs {
    struct Types {
        DType gate, up, down;
    };
    std::vector<std::string> files;
    std::vector<Types> types;                      ///< per layer that routes
    std::vector<std::vector<BlobPlace>> places;    ///< [layers][experts]
};

/** Experts in a store with a budget instead of all in memory. */
struct ExpertOptions {
    uint64_t budget_bytes = 0;
    uint64_t kv_reserve_bytes = 0;                 ///< KV pages beyond these take their memory from the experts
    size_t io_threads = 4;
    CachePolicy policy = CachePolicy::Adaptive;
    uint32_t seed = 0;
    size_t scrub = 0;                              ///< resident experts that are checked at each step
    PrefetchMode prefetch = PrefetchMode::Auto;
    size_t trace_words = 0;                        ///< above 0: what is asked of the cache is recorded, up to about so many words
    uint64_t device_bytes = 0;                     ///< with a device: what experts may take of its memory; 0 = what is left
    uint64_t device_kv_bytes = 0;                  ///< beside that: what the KV cache may take; pages beyond it take from the experts
    uint64_t device_whole_bytes = 0;               ///< what the model was given of the device's memory, for what errors propose
    std::vector<uint8_t> placement;                ///< [layers][experts] of Placement, which stands before any expert is read; empty = all ByPolicy
    ExpertBlobs blobs;
};

struct LoadOptions {
    size_t max_batch = 1;
    uint64_t prefix_bytes = 0;                     ///< pages of KV caches that are kept for later sequences, at most; 0, or with a device: none
    bool store = false;                            ///< false: every expert stays in memory, and `experts` has no meaning
    ExpertOptions experts;
};

class Sequence;
class Prefetcher;
class RouterCopies;
namespace cuda {
class DeviceModel;
class Executor;
}  // namespace cuda
struct RouteArgs;
struct HserRouting;

enum class LogitsWanted : uint32_t { None, Last, All };

/** What routing looks like in every layer that routes. Masks and captures count those layers alone, in the plan's order. */
struct RoutingShape {
    size_t layers = 0, experts = 0, k = 0;
    size_t mask_size() const { return layers * experts; }
    size_t choices() const { return layers * k; }   ///< of one token, over all layers
};

/** One sequence's part of a step. */
struct StepItem {
    std::shared_ptr<Sequence> sequence;
    const int32_t* tokens = nullptr;
    size_t count = 0;
    LogitsWanted logits = LogitsWanted::None;
    float* logits_out = nullptr;           ///< caller's, vocab floats per position asked for; may be null
    bool sample = false;
    SamplingParams sampling;
    uint64_t epoch = 0;                    ///< which versions of experts (see place_versions)
    const uint8_t* enabled = nullptr;      ///< [layers][experts], 0 = disabled by the request's TierSet (see check_enabled); null = all enabled
    const int32_t* forced_ids = nullptr;   ///< [count][layers][k]: taken instead of what the router would choose; null = routed
    const float* forced_weights = nullptr; ///< together with forced_ids
};

struct StepItemResult {
    Status status;                         ///< of this sequence alone; when not OK its tokens were not kept
    Sampled sampled;                       ///< token -1 where none was asked for
};

struct StepResult {
    std::vector<StepItemResult> items;
    size_t rows = 0;                       ///< tokens in the step
    size_t expert_rows = 0;                ///< (token, expert) rows per expert layer
};

/** Where the blob of an expert lies that had no local file. */
struct AdoptedExpert {
    uint32_t layer, expert;
    BlobPlace place;         ///< `file` is an index into the files that come with it; the checksum stays what it was
};

class Model {
  public:
    ~Model();

    /**
     * Reads and repacks every tensor of the plan on all threads of the backend; call on its queue. Allocates the arena for steps of
     * up to max_batch tokens. With a store, experts are read as far as its budget goes. Errors of the file, of the plan and of memory;
     * RESOURCE_BUDGET_TOO_SMALL {required, available, slotBytes}; CANCELLED.
     */
    static Status load(Backend& backend, std::shared_ptr<GgufFile> file, Plan plan, const LoadOptions& options,
                       const std::function<void(const LoadProgress&)>& progress, const std::atomic<bool>* cancel,
                       std::shared_ptr<Model>& out);

    /** One forward call; call on the backend's queue. On an error every sequence is as it was before. */
    Status step(Backend& backend, std::vector<StepItem>& items, const std::atomic<bool>* cancel, StepResult& result);

    /** A new empty sequence of at most max_tokens positions (memory is taken page by page as it grows), which keeps its routes if asked. */
    Status create_sequence(KvType type, size_t max_tokens, bool capture_routes, std::shared_ptr<Sequence>& out) const;

    /** Bytes of weights in memory: all of them, or the base weights and the budget of the experts. */
    uint64_t weight_bytes() const { return weight_bytes_; }
    /** Null where every expert stays in memory. */
    const ExpertStore* store() const { return store_.get(); }
    /** Null where a device has every expert, or there is none. */
    const DeviceExperts* device_experts() const { return device_ ? device_->experts() : nullptr; }
    /** Null where nothing is recorded. */
    const TraceLog* trace() const { return trace_.get(); }
    /** Before the last reference goes, on the backend's thread: waits for reads under way, some seconds at most. */
    void close() {
        if (store_) store_->close();
    }
    const Prefetcher* prefetcher() const { return prefetcher_.get(); }
    /** Null where sequences share nothing. */
    PrefixCache* prefix() const { return prefix_.get(); }
    /** What the experts may have while nothing else takes of it. Any thread. */
    uint64_t expert_limit() const { return expert_budget_; }
    /** Budgets that the KV cache or a lack of memory took from the experts. */
    uint64_t pressure_events() const { return pressure_events_; }
    /** Memory that a step gives back; on the backend's queue. Where experts have a budget they make room. RESOURCE_MEMORY_EXHAUSTED. */
    Status allocate_output(size_t bytes, HeldBlock& out);
    /** Another budget, and pins and demotions; on the backend's queue. RESOURCE_BUDGET_TOO_SMALL; VALIDATION_ERROR without a store. */
    Status set_expert_budget(uint64_t bytes);
    /** [layers][experts]: see Placement. */
    Status place_experts(const uint8_t* placement);
    /** An archived expert's blob is the file at `path` from now on. Any thread. VALIDATION_ERROR. */
    Status bring_expert(uint32_t layer, uint32_t expert, const std::string& path);
    /** The file at `path` has gone, where that is where the expert was. Any thread. VALIDATION_ERROR. */
    Status lose_expert(uint32_t layer, uint32_t expert, const std::string& path);
    /**
     * Experts that no local file has are in these files from now on, all of them or none; on the backend's queue. MODEL_NOT_FOUND,
     * FILE_READ_FAILED {errno}, MODEL_CORRUPTED {file, layer, expert, offset} where a file is too short for a blob, VALIDATION_ERROR.
     */
    Status adopt_experts(const std::vector<std::string>& files, const std::vector<AdoptedExpert>& experts);
    /** Reads experts ahead of their use, as far as they find slots that nothing better has: [layers][experts], 0 = not this one. On the queue. */
    Status read_ahead(const uint8_t* wanted);
    /**
     * The versions of these experts from now on, all or nothing; on the backend's queue. The first of each list takes the expert's usual place
     * (what was there is lost), later ones are held in memory that the budget counts. Other experts keep what they have. VALIDATION_ERROR,
     * RESOURCE_MEMORY_EXHAUSTED {required, available}, MODEL_NOT_FOUND, FILE_READ_FAILED, MODEL_CORRUPTED, EXPERT_CORRUPTED.
     */
    Status place_versions(const std::vector<ExpertVersionList>& lists);
    /** Where each expert is, [layers][experts] of bits as below. Any thread. Needs a store. */
    void whereabouts(uint8_t* out) const;
    static constexpr uint8_t kResidencyBits = 3, kPinnedBit = 4, kDemotedBit = 8, kLocalBit = 16, kDeviceBit = 32;
    uint64_t arena_bytes() const { return arena_bytes_; }
    /** Most that the buffers of one step take, those of the expert store's predictions too. VALIDATION_ERROR for a plan that is none. */
    static Status step_bytes(const Plan& plan, size_t max_batch, size_t threads, uint64_t& out);
    size_t kv_bytes_per_token(KvType type) const;
    const RoutingShape& routing() const { return routing_; }
    /** [layers][experts] */
    const ExpertUse& use() const { return use_; }
    /** A TierSet's mask [layers][experts]: ROUTING_TOO_FEW_EXPERTS {layer, enabled, k} where a layer has fewer than a token uses. */
    Status check_enabled(const uint8_t* mask) const;
    size_t max_batch() const { return max_batch_; }
    const Plan& plan() const { return plan_; }

  private:
    friend class Executor;
    friend class cuda::DeviceModel;
    friend class cuda::Executor;
    Status check_expert(uint32_t layer, uint32_t expert) const;
    /** Pins and demotions of the host's store; reads nothing. RESOURCE_BUDGET_TOO_SMALL. */
    Status mark_placement(const uint8_t* placement);
    /** The routers and constants of a route operation; states and outputs are the caller's. */
    void describe_route(const PlanOp& op, RouteArgs& args, HserRouting& hser) const;
    Model() = default;
    struct Arena;
    /** A layer that routes: its operations, and the norm that makes the state that is routed (null where it is not found). */
    struct RoutedLayer {
        const PlanOp *route, *experts, *norm;
    };
    DeviceExperts* slots() { return device_ ? device_->experts() : nullptr; }
    void find_routed_layers();
    ExpertLayout layout_of(size_t layer) const;
    Status check_versions(const std::vector<ExpertVersionList>& lists) const;
    void set_first_version(uint32_t layer, const HeldVersion& version, std::shared_ptr<DirectFile> file);
    Status read_version(uint32_t layer, HeldVersion& version);
    Status open_store(Backend& backend, std::shared_ptr<GgufFile> file, const ExpertOptions& options);
    /** For the predictions. RESOURCE_MEMORY_EXHAUSTED. */
    Status copy_routers();
    /** The experts get what `held` bytes beside them leave. RESOURCE_MEMORY_EXHAUSTED. */
    Status balance_memory(uint64_t held);
    /** Room for a sequence's positions; where there is no memory, prefixes that nobody uses, of any model, and then experts make some. */
    Status reserve(Sequence& sequence, size_t tokens);
    /** After an allocation of `bytes` that failed: prefixes in nobody's use give as much back, or the least valuable experts. False where they cannot. */
    bool make_room(uint64_t bytes);
    /** What of `held` bytes takes memory from the experts. */
    uint64_t beyond_reserve(uint64_t held) const { return held > kv_reserve_ ? held - kv_reserve_ : 0; }

    Plan plan_;
    RoutingShape routing_;
    ExpertUse use_;
    ExpertVersions versions_;
    std::vector<VersionPlace> first_versions_;   ///< [layers][experts]: what is in the expert's usual place
    std::vector<RoutedLayer> routed_;
    bool foreseeable_ = false;             ///< all of them route the norm of one and the same residual
    std::shared_ptr<ExpertStore> store_;
    std::shared_ptr<TraceLog> trace_;
    std::unique_ptr<Prefetcher> prefetcher_;
    std::unique_ptr<RouterCopies> copies_;  ///< for its predictions
    size_t slot_bytes_ = 0;                ///< of the store
    size_t workers_least_ = 0;             ///< slots that have to be free of pins
    std::atomic<uint64_t> expert_budget_{0};   ///< what the experts may have while the KV cache keeps to its reserve
    uint64_t kv_reserve_ = 0;
    std::atomic<uint64_t> pressure_events_{0};
    HeldBlock::Sum held_;                  ///< pages of all sequences, what steps give back, and versions of experts
    std::shared_ptr<PrefixCache> prefix_;
    std::vector<std::atomic<uint8_t>> placement_;
    std::vector<Weight> weights_;
    std::unique_ptr<Arena> arena_;
    std::unique_ptr<ModelDevice> device_;  ///< null = the CPU computes
    uint64_t weight_bytes_ = 0, arena_bytes_ = 0;
    size_t max_batch_ = 0;
};

/**
 * The KV cache of one sequence, in pages of kKvPage positions that hold all layers, and behind them the positions' routes where these are
 * captured. A page may be several sequences' and the prefix cache's: then nobody writes to it. Used on the backend's queue only, but for `length`
 * and `copy_routes`, and between steps for `truncate` and PrefixCache::reuse.
 */
class Sequence {
  public:
    KvType type = KvType::F16;
    size_t max_tokens = 0;
    size_t page_bytes = 0;
    size_t layer_bytes = 0;                ///< of one layer's part of a page
    size_t routes_at = 0;                  ///< of a page: where its routes begin, [kKvPage][choices] ids and then [kKvPage][choices] weights
    size_t choices = 0;                    ///< experts of one position over all layers (RoutingShape); 0 = routes are not captured
    std::vector<std::shared_ptr<HeldBlock>> pages;
    std::vector<uint8_t*> page_data;       ///< pages[i]->data(), what the attention kernels read and write
    std::atomic<size_t> length{0};
    HeldBlock::Sum held;                   ///< of the model
    std::shared_ptr<SequenceDevice> device;   ///< the cache of positions where a device has it; pages then hold routes alone
    std::unique_ptr<PrefixShare> prefix;      ///< null: it takes no part in the model's prefix cache

    /** Bytes of pages that `reserve` would add. */
    size_t missing_bytes(size_t tokens) const;
    /** Pages of this sequence alone for positions from `length` up to `tokens`. RESOURCE_MEMORY_EXHAUSTED; CONTEXT_LENGTH_EXCEEDED {required, limit}. */
    Status reserve(size_t tokens);
    /** Swaps its pages from the `first` on with these; where it has none yet, an entry of `with` is empty afterwards. */
    void replace_pages(size_t first, std::vector<std::shared_ptr<HeldBlock>>& with);
    void truncate(size_t tokens) {
        if (tokens >= length) return;
        length = tokens;
        if (prefix) prefix->ended = true;
    }
    /** A position's routes, [layers][k], best first. */
    int32_t* route_ids(size_t position) const {
        return reinterpret_cast<int32_t*>(page_data[position / kKvPage] + routes_at) + position % kKvPage * choices;
    }
    float* route_weights(size_t position) const { return reinterpret_cast<float*>(route_ids(position)) + kKvPage * choices; }
    /** Routes of `count` positions below `length`, [count][layers][k]. Any thread: a step under way writes behind `length` only. */
    void copy_routes(size_t from, size_t count, int32_t* ids, float* weights) const;

  private:
    /** Whether somebody else may read a page. Where nobody does, nobody begins to. */
    bool is_shared(size_t page) const { return pages[page].use_count() > 1; }

    mutable std::mutex growth_;            ///< the list of pages, against copy_routes
};

}  // namespace tmoe
