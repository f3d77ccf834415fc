#include "core/store/expert_store.h"

#include <algorithm>
#include <chrono>

#include "core/store/cache_control.h"
#include "core/store/residents.h"
#include "core/store/versioned_source.h"

namespace tmoe {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::microseconds kCancelPoll{500};

uint64_t nanoseconds(Clock::duration time) {
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(time).count());
}

class Store final : public ExpertStore {
  public:
    explicit Store(StoreOptions options) : options_(std::move(options)) {}
    Status start(std::shared_ptr<ExpertSource> source);

    const ExpertLayout& layout(uint32_t layer) const override { return options_.layouts[layer]; }
    bool holds(uint32_t layer, uint32_t expert) const override { return cache().slot_of(entry_of(layer, expert)) >= 0; }
    bool holds_all() const override { return cache().used() == residents_.entries(); }

    void begin_step(const StepShape& shape) override;
    Status begin_layer(uint32_t layer, const std::vector<uint32_t>& experts) override;
    Status next(std::vector<ReadyExpert>& ready, const std::atomic<bool>* cancel) override;
    void end_layer() override;
    void prefetch(uint32_t layer, const std::vector<uint32_t>& experts) override;
    Status scrub() override;
    Status preload(const std::vector<uint8_t>& placement, const std::function<void(size_t, size_t)>& progress, const std::atomic<bool>* cancel) override;
    Status pin(uint32_t layer, uint32_t expert, bool pinned) override;
    void demote(uint32_t layer, uint32_t expert, bool demoted) override;
    void replace(uint32_t layer, uint32_t expert, std::shared_ptr<DirectFile> file, uint64_t offset, uint32_t crc32c) override;
    Status set_budget(uint64_t bytes) override;
    void close() override { residents_.close(); }

    bool local(uint32_t layer, uint32_t expert) const override { return source_->local(layer, expert); }
    void bring(uint32_t layer, uint32_t expert, const std::string& path) override { source_->bring(layer, expert, path); }
    void lose(uint32_t layer, uint32_t expert, const std::string& path) override { source_->lose(layer, expert, path); }
    void adopt(uint32_t layer, uint32_t expert, std::shared_ptr<DirectFile> file, uint64_t offset) override {
        source_->adopt(layer, expert, std::move(file), offset);
    }
    Residency residency(uint32_t layer, uint32_t expert) const override { return residents_.state(entry_of(layer, expert)); }
    std::vector<Residency> residencies() const override { return residents_.states(); }
    StoreCounts counts() const override;
    std::vector<StoreLayerCounts> layer_counts() const override;

  private:
    /** What is done with a part of the schedule. */
    struct Progress {
        std::vector<uint8_t> handed;   ///< per item
        size_t left = 0;               ///< items not handed out
    };
    /** Adds the time of its life, but for waits, to the bookkeeping. */
    class Bookkeeping {
      public:
        explicit Bookkeeping(Store& store) : store_(store), begin_(Clock::now()) {}
        ~Bookkeeping() { store_.bookkeeping_ += nanoseconds(Clock::now() - begin_) - waited_; }
        template <class Fn> void wait(Fn fn) {
            const auto begin = Clock::now();
            fn();
            const uint64_t time = nanoseconds(Clock::now() - begin);
            waited_ += time;
            store_.waits_ += time;
        }

      private:
        Store& store_;
        Clock::time_point begin_;
        uint64_t waited_ = 0;
    };

    const ExpertCache& cache() const { return control_.cache(); }
    uint32_t entry_of(uint32_t layer, uint32_t expert) const { return control_.entry_of(layer, expert); }
    size_t slots_for(uint64_t bytes) const { return std::min<size_t>(residents_.capacity(), bytes / residents_.slot_bytes()); }
    Status check_budget(uint64_t bytes, size_t pinned) const;
    void enter_all(Residents::Reason reason);
    /** Nothing of it is in memory or on the way there, and there is no file to read. */
    bool out_of_reach(uint32_t entry) const {
        const Residency state = residents_.state(entry);
        if (state == Residency::Resident || state == Residency::Loading) return false;
        return !source_->local(control_.layer_of(entry), control_.expert_of(entry));
    }

    void add_part(size_t index);
    void abandon(uint32_t entry);
    bool gather(std::vector<ReadyExpert>& ready, Status& status);
    void publish();

    StoreOptions options_;
    std::shared_ptr<VersionedSource> source_;
    Residents residents_;
    CacheControl control_;
    std::vector<uint32_t> wanted_, ahead_, missing_;
    std::vector<WaveItem> admitted_;
    std::vector<uint32_t> step_wanted_;   ///< entries of the step's layers so far, where there is an archive
    uint32_t scrubbed_ = 0;                           ///< the entry that `scrub` looks at next
    Progress parts_[2];

    std::atomic<uint64_t> waits_{0}, bookkeeping_{0}, budget_{0};
    mutable std::mutex counts_mutex_;
    CacheCounts counts_;                              ///< of the cache, as of the last layer
    std::vector<CacheCounts> layer_counts_;
    std::vector<Residents::LayerReads> layer_reads_;
};

Status Store::start(std::shared_ptr<ExpertSource> source) {
    if (options_.layouts.empty() || options_.experts == 0 || options_.workers == 0 || options_.io_threads == 0) {
        return Status(StatusCode::VALIDATION_ERROR, "an expert store has layers, experts, workers and threads");
    }
    source_ = std::make_shared<VersionedSource>(std::move(source), options_.layouts);
    TMOE_RETURN_IF_ERROR(residents_.start(options_, source_));
    TMOE_RETURN_IF_ERROR(check_budget(options_.budget_bytes, 0));
    TMOE_RETURN_IF_ERROR(residents_.reserve(slots_for(options_.budget_bytes)));
    CacheOptions cache;
    cache.layers = options_.layouts.size();
    cache.experts = options_.experts;
    cache.slots = slots_for(options_.budget_bytes);
    cache.policy = options_.policy;
    cache.seed = options_.seed;
    TMOE_RETURN_IF_ERROR(control_.start(cache, options_.trace));
    budget_ = options_.budget_bytes;
    publish();
    return {};
}

/** One expert for every worker and one in flight, beside those that stay. */
Status Store::check_budget(uint64_t bytes, size_t pinned) const {
    const size_t least = std::min(residents_.entries(), pinned + options_.workers + 1), slot = residents_.slot_bytes();
    if (slots_for(bytes) >= least) return {};
    return Status(StatusCode::RESOURCE_BUDGET_TOO_SMALL,
                  format("the budget of %llu bytes for experts is below the least of %llu: %zu experts of %zu bytes", static_cast<unsigned long long>(bytes),
                         static_cast<unsigned long long>(least) * slot, least, slot))
        .with("required", static_cast<double>(least) * static_cast<double>(slot))
        .with("available", static_cast<double>(bytes))
        .with("slotBytes", static_cast<double>(slot));
}

void Store::begin_step(const StepShape& shape) {
    end_layer();
    control_.begin_step(shape);
    step_wanted_.clear();
}

Status Store::begin_layer(uint32_t layer, const std::vector<uint32_t>& experts) {
    end_layer();
    Bookkeeping bookkeeping(*this);
    wanted_.clear();
    for (uint32_t expert : experts) {
        if (layer >= options_.layouts.size() || expert >= options_.experts) {
            return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, format("there is no expert %u in layer %u", expert, layer));
        }
        wanted_.push_back(entry_of(layer, expert));
    }
    if (source_->archives()) {  // what is in an archive is told before anything is decided: the step is to be taken again when it has come
        step_wanted_.insert(step_wanted_.end(), wanted_.begin(), wanted_.end());
        missing_.clear();
        std::copy_if(wanted_.begin(), wanted_.end(), std::back_inserter(missing_), [this](uint32_t entry) { return out_of_reach(entry); });
        TMOE_RETURN_IF_ERROR(archived_experts(layer, missing_, options_.experts, step_wanted_));
    }
    control_.begin_layer(layer, wanted_);
    for (size_t i = 0; i < control_.parts(); i++) add_part(i);
    residents_.submit();
    return {};
}

/** What a new part of the schedule asks for: slots change hands, reads are asked for. */
void Store::add_part(size_t index) {
    const std::vector<WaveItem>& part = control_.part(index);
    parts_[index].handed.assign(part.size(), 0);
    parts_[index].left = part.size();
    for (const WaveItem& item : part) {
        if (item.evicted != kNoEntry) residents_.leave(item.evicted);
    }
    for (const WaveItem& item : part) {
        if (item.admitted) residents_.enter(item.entry, item.slot, cache().slots(), Residents::Reason::Demand);
        else residents_.demand(item.entry);
    }
}

/** The entry's bytes did not come: its slot is free, and a later demand tries again. */
void Store::abandon(uint32_t entry) {
    residents_.abandon(entry);
    control_.drop(entry);
}

/** Hands out what has arrived. False with the status of one that could not be read. */
bool Store::gather(std::vector<ReadyExpert>& ready, Status& status) {
    for (size_t p = 0; p < control_.parts(); p++) {
        const std::vector<WaveItem>& part = control_.part(p);
        Progress& progress = parts_[p];
        for (size_t i = 0; i < part.size() && progress.left > 0; i++) {
            if (progress.handed[i]) continue;
            const uint32_t entry = part[i].entry;
            const Residency state = residents_.state(entry);
            if (state == Residency::Loading) continue;
            if (state != Residency::Resident) {
                status = residents_.error(entry);
                return false;
            }
            residents_.seen(entry);
            progress.handed[i] = 1;
            progress.left--;
            ready.push_back({part[i].expert, residents_.blob(part[i].slot)});
        }
    }
    return true;
}

Status Store::next(std::vector<ReadyExpert>& ready, const std::atomic<bool>* cancel) {
    Bookkeeping bookkeeping(*this);
    const size_t before = ready.size();
    for (;;) {
        // What was handed out before has been computed: its slots pass on, oldest part first.
        while (control_.left() > 0 && control_.parts() > 0 && parts_[0].left == 0) {
            const bool added = control_.advance();
            std::swap(parts_[0], parts_[1]);
            if (added) add_part(control_.parts() - 1);
            residents_.submit();
        }
        if (control_.parts() == 0 && control_.left() > 0) {
            return Status(StatusCode::RESOURCE_BUDGET_TOO_SMALL, "every slot for experts is pinned")
                .with("required", static_cast<double>(control_.pinned() + 1) * static_cast<double>(residents_.slot_bytes()))
                .with("available", static_cast<double>(budget_))
                .with("slotBytes", static_cast<double>(residents_.slot_bytes()));
        }
        const uint64_t seen = residents_.ended();
        Status status;
        if (!gather(ready, status)) return status;
        if (ready.size() > before) return {};
        size_t waiting = 0;
        for (size_t p = 0; p < control_.parts(); p++) waiting += parts_[p].left;
        if (waiting == 0) return {};
        if (cancel && cancel->load(std::memory_order_relaxed)) return Status(StatusCode::CANCELLED, "the step was cancelled");
        bookkeeping.wait([&] { residents_.wait(seen, kCancelPoll); });
    }
}

void Store::end_layer() {
    if (!control_.in_layer()) return;
    Bookkeeping bookkeeping(*this);
    // After an error or a cancellation: what failed or has not begun loses its slot, what is being read ends by itself.
    for (size_t p = 0; p < control_.parts(); p++) {
        if (parts_[p].left == 0) continue;
        const std::vector<WaveItem> part = control_.part(p);
        for (size_t i = 0; i < part.size(); i++) {
            const uint32_t entry = part[i].entry;
            if (!parts_[p].handed[i] && residents_.give_up(entry)) abandon(entry);
        }
    }
    control_.end_layer();
    publish();
}

void Store::prefetch(uint32_t layer, const std::vector<uint32_t>& experts) {
    Bookkeeping bookkeeping(*this);
    ahead_.clear();
    for (uint32_t expert : experts) {
        if (layer >= options_.layouts.size() || expert >= options_.experts || out_of_reach(entry_of(layer, expert))) continue;
        ahead_.push_back(entry_of(layer, expert));
    }
    enter_all(Residents::Reason::Prefetch);
}

/** Those of `ahead_` that the cache gives a slot are read. */
void Store::enter_all(Residents::Reason reason) {
    admitted_.clear();
    control_.prefetch(ahead_, admitted_);
    for (const WaveItem& item : admitted_) {
        if (item.evicted != kNoEntry) residents_.leave(item.evicted);
        residents_.enter(item.entry, item.slot, cache().slots(), reason);
    }
    residents_.submit();
}

Status Store::preload(const std::vector<uint8_t>& placement, const std::function<void(size_t, size_t)>& progress, const std::atomic<bool>* cancel) {
    end_layer();
    if (cancel && cancel->load(std::memory_order_relaxed)) return Status(StatusCode::CANCELLED, "reading the experts was cancelled");
    const std::vector<uint32_t> order = control_.fill_order(placement, [this](uint32_t entry) { return !out_of_reach(entry); });
    ahead_ = order;
    enter_all(Residents::Reason::Preload);
    Status status;
    for (size_t done = 0; done < order.size() && status.ok(); done++) {
        const uint32_t entry = order[done];
        while (status.ok() && residents_.state(entry) == Residency::Loading) {
            const uint64_t seen = residents_.ended();
            if (residents_.state(entry) == Residency::Loading) residents_.wait(seen, kCancelPoll);
            if (cancel && cancel->load(std::memory_order_relaxed)) status = Status(StatusCode::CANCELLED, "reading the experts was cancelled");
        }
        if (status.ok() && residents_.state(entry) == Residency::Unavailable) status = residents_.error(entry);
        if (status.ok() && progress) progress(done + 1, order.size());
    }
    for (uint32_t entry : order) {
        if (residents_.state(entry) == Residency::Resident) residents_.seen(entry);
        else if (residents_.give_up(entry)) abandon(entry);
    }
    publish();
    return status;
}

Status Store::scrub() {
    end_layer();
    const auto entries = static_cast<uint32_t>(residents_.entries());
    for (uint32_t looked = 0, checked = 0; looked < entries && checked < options_.scrub; looked++) {
        const uint32_t entry = scrubbed_;
        scrubbed_ = (scrubbed_ + 1) % entries;
        if (residents_.state(entry) != Residency::Resident) continue;
        checked++;
        if (residents_.is_sound(entry)) continue;
        abandon(entry);
        const uint32_t layer = control_.layer_of(entry), expert = control_.expert_of(entry);
        return Status(StatusCode::RUNTIME_MEMORY_CORRUPTION, format("the bytes of expert %u of layer %u have changed in memory", expert, layer))
            .with("layer", layer)
            .with("expert", expert);
    }
    return {};
}

Status Store::pin(uint32_t layer, uint32_t expert, bool pinned) {
    const uint32_t entry = entry_of(layer, expert);
    if (pinned && !cache().pinned(entry)) TMOE_RETURN_IF_ERROR(check_budget(budget_, control_.pinned() + 1));
    control_.pin(entry, pinned);
    return {};
}

void Store::demote(uint32_t layer, uint32_t expert, bool demoted) {
    control_.demote(entry_of(layer, expert), demoted);
}

void Store::replace(uint32_t layer, uint32_t expert, std::shared_ptr<DirectFile> file, uint64_t offset, uint32_t crc32c) {
    end_layer();
    const uint32_t entry = entry_of(layer, expert);
    if (cache().slot_of(entry) >= 0) abandon(entry);
    source_->replace(layer, expert, std::move(file), offset, crc32c);
}

Status Store::set_budget(uint64_t bytes) {
    end_layer();
    TMOE_RETURN_IF_ERROR(check_budget(bytes, control_.pinned()));
    TMOE_RETURN_IF_ERROR(residents_.reserve(slots_for(bytes)));
    std::vector<uint32_t> evicted;
    control_.resize(slots_for(bytes), evicted);
    for (uint32_t entry : evicted) residents_.leave(entry);
    residents_.shrink(cache().slots());
    budget_ = bytes;
    publish();
    return {};
}

void Store::publish() {
    std::lock_guard<std::mutex> lock(counts_mutex_);
    counts_ = cache().counts();
    layer_counts_ = cache().layer_counts();
    layer_reads_ = residents_.layer_reads();
}

std::vector<StoreLayerCounts> Store::layer_counts() const {
    std::lock_guard<std::mutex> lock(counts_mutex_);
    std::vector<StoreLayerCounts> out;
    for (size_t i = 0; i < layer_counts_.size(); i++) out.push_back({layer_counts_[i], layer_reads_[i].late, layer_reads_[i].wasted});
    return out;
}

StoreCounts Store::counts() const {
    StoreCounts out;
    {
        std::lock_guard<std::mutex> lock(counts_mutex_);
        out.cache = counts_;
        for (const Residents::LayerReads& layer : layer_reads_) {
            out.late += layer.late;
            out.prefetch_wasted += layer.wasted;
        }
    }
    residents_.fill(out);
    out.wait_nanoseconds = waits_;
    out.bookkeeping_nanoseconds = bookkeeping_;
    out.budget_bytes = budget_;
    return out;
}

}  // namespace

Status ExpertStore::create(StoreOptions options, std::shared_ptr<ExpertSource> source, std::shared_ptr<ExpertStore>& out) {
    auto store = std::make_shared<Store>(std::move(options));
    TMOE_RETURN_IF_ERROR(store->start(std::move(source)));
    out = std::move(store);
    return {};
}

}  // namespace tmoe
