#include "core/prefix_cache.h"

#include <algorithm>
#include <cstring>

#include "core/model.h"

namespace tmoe {

namespace {

/** Everything but the tokens, as bytes that are equal only where all of it is. */
std::string scope_bytes(KvType type, size_t page_bytes, const PrefixScope& scope) {
    const uint64_t numbers[] = {static_cast<uint64_t>(type), page_bytes, scope.epoch, scope.salt.size(), scope.enabled.size()};
    std::string bytes(reinterpret_cast<const char*>(numbers), sizeof numbers);
    bytes += scope.salt;
    bytes.append(reinterpret_cast<const char*>(scope.enabled.data()), scope.enabled.size());
    return bytes;
}

std::string page_tokens(const int32_t* tokens) { return {reinterpret_cast<const char*>(tokens), kKvPage * sizeof(int32_t)}; }

/** Whether the step computed what the sequence joined for. */
bool same_scope(const PrefixShare& share, const StepItem& item) {
    if (item.forced_ids || item.epoch != share.epoch || (item.enabled == nullptr) != share.enabled.empty()) return false;
    return !item.enabled || memcmp(item.enabled, share.enabled.data(), share.enabled.size()) == 0;
}

/** Every model's cache. Never destroyed: threads of models may outlive the process's end. */
struct Caches {
    std::mutex mutex;   ///< taken before a cache's own
    std::vector<PrefixCache*> all;
};
Caches& caches() {
    static Caches& instance = *new Caches();
    return instance;
}

}  // namespace

PrefixCache::PrefixCache(uint64_t limit_bytes) : limit_(limit_bytes) {
    std::lock_guard<std::mutex> guard(caches().mutex);
    caches().all.push_back(this);
}

PrefixCache::~PrefixCache() {
    {
        std::lock_guard<std::mutex> guard(caches().mutex);
        std::vector<PrefixCache*>& all = caches().all;
        all.erase(std::find(all.begin(), all.end(), this));
    }
    clear();
}

void PrefixCache::join(Sequence& sequence, PrefixScope scope) {
    auto share = std::make_unique<PrefixShare>();
    share->scope = scope_bytes(sequence.type, sequence.page_bytes, scope);
    share->epoch = scope.epoch;
    share->enabled = std::move(scope.enabled);
    share->cache = shared_from_this();
    std::lock_guard<std::mutex> guard(mutex_);
    share->generation = generation_;
    sequence.prefix = std::move(share);
}

bool PrefixCache::is_current(const Sequence& sequence) const {
    return sequence.prefix && !sequence.prefix->ended && sequence.prefix->generation == generation_;
}

void PrefixCache::use(Node* node) {
    for (; node && node->users++ == 0; node = node->parent) {
        counts_.idle -= node->page->size();
        idle_.erase(node->turn);
    }
}

void PrefixCache::leave(Node* node) {
    for (; node && --node->users == 0; node = node->parent) {
        counts_.idle += node->page->size();
        node->turn = idle_.insert(idle_.begin(), node);
    }
}

void PrefixCache::release(const PrefixShare& share) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (share.generation == generation_) leave(share.last);
}

void PrefixCache::remove(Node* node, std::vector<Page>& freed) {
    counts_.held -= node->page->size();
    counts_.idle -= node->page->size();
    freed.push_back(std::move(node->page));
    idle_.erase(node->turn);
    const auto scope = node->scope;
    node->siblings->erase(node->place);
    if (scope->second.empty()) scopes_.erase(scope);
}

uint64_t PrefixCache::evict(uint64_t bytes, std::vector<Page>& freed) {
    uint64_t given = 0;
    while (!idle_.empty() && given < bytes) {
        Node* node = idle_.back();
        given += node->page->size();
        counts_.evictions++;
        remove(node, freed);
    }
    return given;
}

uint64_t PrefixCache::evict(uint64_t bytes) {
    std::vector<Page> freed;
    std::lock_guard<std::mutex> guard(mutex_);
    return evict(bytes, freed);
}

uint64_t PrefixCache::evict_anywhere(uint64_t bytes, PrefixCache* first) {
    std::vector<Page> freed;
    std::lock_guard<std::mutex> guard(caches().mutex);
    uint64_t given = 0;
    const auto take = [&](PrefixCache& cache) {
        std::lock_guard<std::mutex> guard(cache.mutex_);
        if (given < bytes) given += cache.evict(bytes - given, freed);
    };
    if (first) take(*first);
    for (PrefixCache* cache : caches().all) take(*cache);
    return given;
}

uint64_t PrefixCache::idle_anywhere() {
    uint64_t idle = 0;
    std::lock_guard<std::mutex> guard(caches().mutex);
    for (const PrefixCache* cache : caches().all) idle += cache->counts().idle;
    return idle;
}

void PrefixCache::reuse(Sequence& sequence, const int32_t* tokens, size_t count) {
    std::vector<Page> freed;
    std::lock_guard<std::mutex> guard(mutex_);
    if (!is_current(sequence)) return;
    PrefixShare& share = *sequence.prefix;
    const size_t length = sequence.length;
    count = std::min(count, sequence.max_tokens);
    if (count < kKvPage || count < length || !std::equal(share.tokens.begin(), share.tokens.end(), tokens)) return;
    if (!share.looked) counts_.misses++;
    share.looked = true;
    Node* node = share.last;
    size_t pages = share.pages;
    const auto first = scopes_.find(share.scope);
    Children* next = node ? &node->children : first == scopes_.end() ? nullptr : &first->second;
    for (; next && (pages + 1) * kKvPage <= count; pages++) {
        const auto found = next->find(page_tokens(tokens + pages * kKvPage));
        if (found == next->end()) break;
        node = found->second.get();
        next = &node->children;
    }
    if (pages * kKvPage <= length) return;
    Node* walk = node;
    std::vector<Page> chain(pages - share.pages);
    for (size_t i = chain.size(); i-- > 0; walk = walk->parent) chain[i] = walk->page;
    sequence.replace_pages(share.pages, chain);
    freed = std::move(chain);  // what the sequence had computed of them itself
    share.tokens.assign(tokens, tokens + pages * kKvPage);
    use(node);
    leave(share.last);
    share.last = node;
    share.pages = share.taken = pages;
    if (!share.hit) {
        share.hit = true;
        counts_.hits++;
        counts_.misses--;
    }
    counts_.reused += pages * kKvPage - length;
    sequence.length = pages * kKvPage;
}

void PrefixCache::extend(Sequence& sequence, const StepItem& item) {
    if (!sequence.prefix || sequence.prefix->ended) return;
    PrefixShare& share = *sequence.prefix;
    share.ended = !same_scope(share, item);
    if (share.ended) return;
    const size_t before = share.tokens.size() / kKvPage, full = (share.tokens.size() + item.count) / kKvPage;
    share.tokens.insert(share.tokens.end(), item.tokens, item.tokens + item.count);
    if (full == before) return;
    std::vector<Page> freed;
    std::lock_guard<std::mutex> guard(mutex_);
    share.ended = !is_current(sequence);
    if (share.ended) return;
    for (; share.pages < full; share.pages++) {
        Page& own = sequence.pages[share.pages];
        const std::string tokens = page_tokens(share.tokens.data() + share.pages * kKvPage);
        auto scope = scopes_.find(share.scope);
        Children* siblings = share.last ? &share.last->children : scope == scopes_.end() ? nullptr : &scope->second;
        if (siblings) {
            const auto known = siblings->find(tokens);
            if (known != siblings->end()) {  // another one has computed the same meanwhile: one of the two is enough
                Node* const node = known->second.get();
                std::vector<Page> same = {node->page};
                sequence.replace_pages(share.pages, same);
                freed.push_back(std::move(same[0]));
                use(node);
                leave(share.last);
                share.last = node;
                if (share.taken == share.pages) share.taken++;
                continue;
            }
        }
        const uint64_t bytes = own->size();
        // Pages of this very sequence are in use, so its own prefix is not what makes room.
        if (counts_.held + bytes > limit_) evict(counts_.held + bytes - limit_, freed);
        if (counts_.held + bytes > limit_) break;
        scope = scopes_.try_emplace(share.scope).first;  // evicting may have taken the last of it
        siblings = share.last ? &share.last->children : &scope->second;
        auto made = std::make_unique<Node>();
        Node* node = made.get();
        node->page = own;
        node->parent = share.last;
        node->siblings = siblings;
        node->scope = scope;
        node->place = siblings->emplace(tokens, std::move(made)).first;
        node->users = 1;  // the sequence, which its parent has as a user no more, but the node
        counts_.held += bytes;
        share.last = node;
    }
}

void PrefixCache::forget(Sequence& sequence) {
    std::vector<Page> freed;
    std::lock_guard<std::mutex> guard(mutex_);
    if (!is_current(sequence)) return;
    PrefixShare& share = *sequence.prefix;
    share.ended = true;
    for (; share.pages > share.taken && share.last->users == 1 && share.last->children.empty(); share.pages--) {
        Node* const node = share.last;
        share.last = node->parent;
        use(share.last);
        leave(node);
        remove(node, freed);
    }
}

void PrefixCache::clear() {
    std::map<std::string, Children> scopes;
    {
        std::lock_guard<std::mutex> guard(mutex_);
        generation_++;
        scopes.swap(scopes_);
        idle_.clear();
        counts_.held = counts_.idle = 0;
    }
    std::vector<std::unique_ptr<Node>> nodes;  // one by one: no destructor goes as deep as a prefix is long
    const auto take = [&nodes](Children& children) {
        for (auto& [tokens, node] : children) nodes.push_back(std::move(node));
        children.clear();
    };
    for (auto& [scope, children] : scopes) take(children);
    while (!nodes.empty()) {
        const std::unique_ptr<Node> node = std::move(nodes.back());
        nodes.pop_back();
        take(node->children);
    }
}

PrefixCounts PrefixCache::counts() const {
    std::lock_guard<std::mutex> guard(mutex_);
    PrefixCounts counts = counts_;
    counts.limit = limit_;
    return counts;
}

}  // namespace tmoe
