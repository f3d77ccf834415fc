// The KV cache of prefixes that several sequences have: full pages, kept after their sequence ends and shared while others use them.
//
// A page is found by everything that its bits depend on: the model (one cache each; its RoPE parameters and routing seed are fixed), the KV type,
// the versions of experts, the TierSet, a salt, and every token from position 0 to its end. All of that is compared, not a hash of it.
#pragma once
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/held_block.h"

namespace tmoe {

class Sequence;
struct StepItem;
struct PrefixShare;

/** What sequences have to have in common to share pages, beside their tokens and their KV type. */
struct PrefixScope {
    std::string salt;                      ///< only requests with the same one share
    uint64_t epoch = 0;                    ///< of the versions of experts
    std::vector<uint8_t> enabled;          ///< [layers][experts] of the TierSet; empty = all enabled
};

/** What a cache has done since the load, and what it holds. Pages are counted in bytes. */
struct PrefixCounts {
    uint64_t limit = 0;
    uint64_t held = 0;                     ///< in the cache, whether sequences use them or not
    uint64_t idle = 0;                     ///< of these: that no sequence uses
    uint64_t hits = 0, misses = 0;         ///< sequences that looked and took pages, and that found none
    uint64_t reused = 0;                   ///< tokens that were not computed again
    uint64_t evictions = 0;                ///< pages
};

/** Any thread, but for what changes a sequence: never while a step with it is under way. Sequences that have joined keep it. */
class PrefixCache : public std::enable_shared_from_this<PrefixCache> {
  public:
    explicit PrefixCache(uint64_t limit_bytes);
    ~PrefixCache();
    PrefixCache(const PrefixCache&) = delete;
    PrefixCache& operator=(const PrefixCache&) = delete;

    /** An empty sequence takes part from now on: its full pages are for others too. */
    void join(Sequence& sequence, PrefixScope scope);
    /**
     * Gives a sequence the longest chain of pages that the cache has for `tokens`, in the place of its own; nothing where that is not longer than
     * what it holds. Its own tokens have to be the first of these, or nothing is given.
     */
    void reuse(Sequence& sequence, const int32_t* tokens, size_t count);
    /** A step has computed the item's tokens, and the sequence's length counts them: pages that became full are kept, as far as the limit goes. */
    void extend(Sequence& sequence, const StepItem& item);
    /** A step failed for this sequence alone: what it brought into the cache and nobody else uses goes, and it takes no part any more. */
    void forget(Sequence& sequence);
    /** Gives at least so many bytes back, as far as pages are in nobody's use: least recently used first, the last pages of a prefix before its first. */
    uint64_t evict(uint64_t bytes);
    /** The same of all models' caches in this process: of `first` before the others, unless it is null. */
    static uint64_t evict_anywhere(uint64_t bytes, PrefixCache* first);
    /** Bytes that it would give at most. */
    static uint64_t idle_anywhere();
    /** Nothing that is there now is given to anybody again, nor what its sequences bring later: weights have changed, or may have been damaged. */
    void clear();
    PrefixCounts counts() const;

  private:
    struct Node;
    friend struct PrefixShare;
    using Children = std::map<std::string, std::unique_ptr<Node>>;   ///< by the bytes of a page's tokens; ordered: no choice of tokens makes it slow
    using Page = std::shared_ptr<HeldBlock>;
    struct Node {
        Page page;
        Node* parent = nullptr;                ///< null: the page begins at position 0
        Children* siblings = nullptr;          ///< it is one of these
        Children::iterator place;
        std::map<std::string, Children>::iterator scope;
        Children children;
        size_t users = 0;                      ///< sequences whose last shared page it is, and children that have users
        std::list<Node*>::iterator turn;       ///< in `idle_`, while it has no users
    };

    void use(Node* node);
    void leave(Node* node);
    /** A sequence ends. */
    void release(const PrefixShare& share);
    /** Takes an idle node without children out; its page goes into `freed`, to be released without the lock. */
    void remove(Node* node, std::vector<Page>& freed);
    uint64_t evict(uint64_t bytes, std::vector<Page>& freed);
    bool is_current(const Sequence& sequence) const;

    const uint64_t limit_;
    mutable std::mutex mutex_;
    std::map<std::string, Children> scopes_;   ///< first pages, by everything but the tokens
    std::list<Node*> idle_;                    ///< nodes without users, least recently used last; children are behind their parent
    uint64_t generation_ = 0;                  ///< counts what `clear` ended
    PrefixCounts counts_;
};

/** A sequence's part in its model's prefix cache. */
struct PrefixShare {
    std::string scope;                     ///< everything but the tokens, as bytes
    uint64_t epoch = 0;
    std::vector<uint8_t> enabled;
    std::shared_ptr<PrefixCache> cache;
    uint64_t generation = 0;               ///< of the cache when the sequence joined
    bool ended = false;                    ///< the sequence takes no part any more
    std::vector<int32_t> tokens;           ///< of all positions that the sequence holds
    size_t pages = 0;                      ///< leading pages of the sequence that are the cache's
    size_t taken = 0;                      ///< of these: that others brought
    PrefixCache::Node* last = nullptr;     ///< of page `pages - 1`; this is a user of it, so it stays while the generation does
    bool looked = false, hit = false;

    ~PrefixShare() { cache->release(*this); }
};

}  // namespace tmoe
