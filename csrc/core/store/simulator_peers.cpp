// What the cache is compared with. Both decide about all layers' experts together, one turn of a layer after another: hits first, then the
// missing experts in ascending order.
#include <algorithm>
#include <list>
#include <set>

#include "core/store/simulator.h"

namespace tmoe {

namespace {

size_t entries_of(const Trace& trace) {
    size_t entries = trace.layers * trace.experts, at = 0;
    for (TraceItem item; trace.next(at, item);) entries += item.kind == static_cast<uint32_t>(TraceKind::Version);
    return entries;
}

/** Calls `turn(layer, first, last)` for every turn of a layer. */
template <class Function> void each_turn(const Trace& trace, Function turn) {
    size_t at = 0;
    for (TraceItem item; trace.next(at, item);)
        if (item.kind == static_cast<uint32_t>(TraceKind::Layer)) turn(item.words[0], item.words + 1, item.words + item.count);
}

/** What was read before the first step, in order. */
std::vector<uint32_t> preloaded(const Trace& trace) {
    std::vector<uint32_t> entries;
    size_t at = 0;
    for (TraceItem item; trace.next(at, item) && item.kind != static_cast<uint32_t>(TraceKind::Step);)
        if (item.kind == static_cast<uint32_t>(TraceKind::Prefetch)) entries.insert(entries.end(), item.words + 1, item.words + item.count);
    return entries;
}

void count(Simulation& out, uint32_t layer, uint64_t uses, uint64_t misses, uint64_t evictions) {
    for (CacheCounts* counts : {&out.counts, &out.layers[layer]}) {
        counts->uses += uses;
        counts->hits += uses - misses;
        counts->misses += misses;
        counts->evictions += evictions;
        counts->waves += uses != 0;
    }
}

/** When each entry is wanted, in turns; `next` runs on. */
struct Future {
    std::vector<std::vector<uint32_t>> turns;   ///< per entry
    std::vector<size_t> position;

    explicit Future(const Trace& trace) : turns(entries_of(trace)), position(turns.size()) {
        uint32_t turn = 0;
        each_turn(trace, [&](uint32_t, const uint32_t* first, const uint32_t* last) {
            for (; first != last; first++) turns[*first].push_back(turn);
            turn++;
        });
    }
    uint32_t next(uint32_t entry) const { return position[entry] < turns[entry].size() ? turns[entry][position[entry]] : UINT32_MAX; }
};

/** The lists of the paper: recent and frequent entries that hold a slot, and ghosts of those that lost it. Most recent first. */
class Arc {
  public:
    Arc(size_t slots, size_t entries) : slots_(slots), place_(entries), home_(entries, kNowhere), turn_of_(entries) {}

    void preload(const std::vector<uint32_t>& entries) {
        for (size_t i = 0; i < entries.size() && resident() < slots_; i++)
            if (home_[entries[i]] == kNowhere) move(entries[i], kRecent);
    }

    void turn(uint32_t layer, const uint32_t* first, const uint32_t* last, Simulation& out) {
        turn_++;
        evictions_ = 0;
        uint64_t misses = 0;
        for (const uint32_t* e = first; e != last; e++) {
            turn_of_[*e] = turn_;
            if (holds_slot(*e)) move(*e, kFrequent);
            else missing_.push_back(*e);
        }
        for (uint32_t entry : missing_) {
            admit(entry);
            misses++;
        }
        missing_.clear();
        count(out, layer, static_cast<uint64_t>(last - first), misses, evictions_);
    }

  private:
    enum Home : uint8_t { kRecent, kFrequent, kRecentGhost, kFrequentGhost, kNowhere };

    bool holds_slot(uint32_t entry) const { return home_[entry] == kRecent || home_[entry] == kFrequent; }
    size_t resident() const { return lists_[kRecent].size() + lists_[kFrequent].size(); }

    void move(uint32_t entry, Home home) {
        if (home_[entry] != kNowhere) lists_[home_[entry]].erase(place_[entry]);
        home_[entry] = home;
        if (home == kNowhere) return;
        lists_[home].push_front(entry);
        place_[entry] = lists_[home].begin();
    }

    /** The last of a list that this turn does not want; with `any`, the last. kNoEntry where there is none. */
    uint32_t last_of(Home home, bool any) const {
        for (auto it = lists_[home].rbegin(); it != lists_[home].rend(); ++it)
            if (any || turn_of_[*it] != turn_) return *it;
        return kNoEntry;
    }

    void replace(bool frequent_ghost) {
        if (resident() < slots_) return;
        const size_t recent = lists_[kRecent].size();
        const bool from_recent = recent > 0 && (recent > target_ || (frequent_ghost && recent == target_));
        for (bool any : {false, true}) {
            for (bool recent_list : {from_recent, !from_recent}) {
                const uint32_t victim = last_of(recent_list ? kRecent : kFrequent, any);
                if (victim == kNoEntry) continue;
                move(victim, recent_list ? kRecentGhost : kFrequentGhost);
                evictions_++;
                return;
            }
        }
    }

    void admit(uint32_t entry) {
        const size_t recent_ghosts = lists_[kRecentGhost].size(), frequent_ghosts = lists_[kFrequentGhost].size();
        if (home_[entry] == kRecentGhost) {
            target_ = std::min(slots_, target_ + std::max<size_t>(1, frequent_ghosts / recent_ghosts));
            replace(false);
            move(entry, kFrequent);
        } else if (home_[entry] == kFrequentGhost) {
            const size_t less = std::max<size_t>(1, recent_ghosts / frequent_ghosts);
            target_ = target_ > less ? target_ - less : 0;
            replace(true);
            move(entry, kFrequent);
        } else {
            const bool full = lists_[kRecent].size() + recent_ghosts >= slots_;
            if (full && recent_ghosts > 0) {
                move(lists_[kRecentGhost].back(), kNowhere);
            } else if (!full && resident() + recent_ghosts + frequent_ghosts >= 2 * slots_ && frequent_ghosts > 0) {
                move(lists_[kFrequentGhost].back(), kNowhere);
            }
            replace(false);
            if (full && recent_ghosts == 0 && !lists_[kRecentGhost].empty()) move(lists_[kRecentGhost].back(), kNowhere);
            move(entry, kRecent);
        }
    }

    const size_t slots_;
    size_t target_ = 0;        ///< entries that the recent list should have
    uint64_t turn_ = 0, evictions_ = 0;
    std::list<uint32_t> lists_[4];
    std::vector<std::list<uint32_t>::iterator> place_;
    std::vector<Home> home_;
    std::vector<uint64_t> turn_of_;
    std::vector<uint32_t> missing_;
};

}  // namespace

void simulate_arc(const Trace& trace, size_t slots, Simulation& out) {
    Arc arc(slots, entries_of(trace));
    arc.preload(preloaded(trace));
    each_turn(trace, [&](uint32_t layer, const uint32_t* first, const uint32_t* last) { arc.turn(layer, first, last, out); });
}

void simulate_optimum(const Trace& trace, size_t slots, Simulation& out) {
    Future future(trace);
    using Wanted = std::pair<uint32_t, uint32_t>;  // next turn, entry
    std::set<Wanted> others, current;              // residents that this turn does not want, and those that it does
    std::vector<uint32_t> missing;
    for (uint32_t entry : preloaded(trace)) others.insert({future.next(entry), entry});
    while (others.size() > slots) others.erase(std::prev(others.end()));  // of what was read first it has what is wanted first
    each_turn(trace, [&](uint32_t layer, const uint32_t* first, const uint32_t* last) {
        uint64_t evictions = 0;
        missing.clear();
        for (const uint32_t* e = first; e != last; e++) {
            const bool held = others.erase({future.next(*e), *e}) != 0;
            future.position[*e]++;
            if (held) current.insert({future.next(*e), *e});
            else missing.push_back(*e);
        }
        for (uint32_t entry : missing) {
            if (others.size() + current.size() >= slots) {
                std::set<Wanted>& from = others.empty() ? current : others;
                from.erase(std::prev(from.end()));
                evictions++;
            }
            current.insert({future.next(entry), entry});
        }
        others.insert(current.begin(), current.end());
        current.clear();
        count(out, layer, static_cast<uint64_t>(last - first), missing.size(), evictions);
    });
}

}  // namespace tmoe
