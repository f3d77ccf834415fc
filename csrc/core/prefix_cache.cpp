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

}  // namespace

void PrefixCache::join(Sequence& sequence, PrefixScope scope) {
    auto share = std::make_unique<PrefixShare>();
    share->scope = scope_bytes(sequence.type, sequence.page_bytes, scope);
    share->epoch = scope.epoch;
    share->enabled = std::move(scope.enabled);
    std::lock_guard<std::mutex> guard(mutex_);
    share->generation = generation_;
    sequence.prefix = std::move(share);
}

bool PrefixCache::is_current(const Sequence& sequence) const { return sequence.prefix && sequence.prefix->generation == generation_; }

void PrefixCache::touch(Node* node) {
    for (; node; node = node->parent) turns_.splice(turns_.begin(), turns_, node->turn);
}

void PrefixCache::remove(Node* node, std::vector<Page>& freed) {
    counts_.held -= node->page->size();
    freed.push_back(std::move(node->page));
    turns_.erase(node->turn);
    const auto scope = node->scope;
    node->siblings->erase(node->place);
    if (scope->second.empty()) scopes_.erase(scope);
}

uint64_t PrefixCache::evict(uint64_t bytes, std::vector<Page>& freed) {
    uint64_t given = 0;
    for (auto turn = turns_.end(); turn != turns_.begin() && given < bytes;) {
        Node* node = *--turn;
        // Whoever uses a page uses those before it: of pages in nobody's use the first from the end has no children.
        if (node->page.use_count() > 1) continue;
        turn++;
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
    share.last = node;
    share.pages = share.taken = pages;
    touch(node);
    if (!share.hit) {
        share.hit = true;
        counts_.hits++;
        counts_.misses--;
    }
    counts_.reused += pages * kKvPage - length;
    sequence.length = pages * kKvPage;
}

void PrefixCache::extend(Sequence& sequence, const StepItem& item) {
    if (!sequence.prefix) return;
    PrefixShare& share = *sequence.prefix;
    if (!same_scope(share, item)) {
        sequence.prefix.reset();
        return;
    }
    const size_t before = share.tokens.size() / kKvPage, full = (share.tokens.size() + item.count) / kKvPage;
    share.tokens.insert(share.tokens.end(), item.tokens, item.tokens + item.count);
    if (full == before) return;
    std::vector<Page> freed;
    std::lock_guard<std::mutex> guard(mutex_);
    if (!is_current(sequence)) {
        sequence.prefix.reset();
        return;
    }
    for (; share.pages < full; share.pages++) {
        Page& own = sequence.pages[share.pages];
        const std::string tokens = page_tokens(share.tokens.data() + share.pages * kKvPage);
        auto scope = scopes_.find(share.scope);
        Children* siblings = share.last ? &share.last->children : scope == scopes_.end() ? nullptr : &scope->second;
        if (siblings) {
            const auto known = siblings->find(tokens);
            if (known != siblings->end()) {  // another one has computed the same meanwhile: one of the two is enough
                share.last = known->second.get();
                std::vector<Page> same = {share.last->page};
                sequence.replace_pages(share.pages, same);
                freed.push_back(std::move(same[0]));
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
        node->turn = turns_.insert(turns_.begin(), node);
        counts_.held += bytes;
        share.last = node;
    }
    touch(share.last);
}

void PrefixCache::forget(Sequence& sequence) {
    std::vector<Page> freed;
    std::lock_guard<std::mutex> guard(mutex_);
    if (is_current(sequence)) {
        PrefixShare& share = *sequence.prefix;
        Node* node = share.last;
        // The cache's and this sequence's: nobody else has it.
        for (size_t pages = share.pages; node && pages > share.taken && node->children.empty() && node->page.use_count() == 2; pages--) {
            Node* const before = node->parent;
            remove(node, freed);
            node = before;
        }
    }
    sequence.prefix.reset();
}

void PrefixCache::clear() {
    std::vector<Page> freed;
    std::lock_guard<std::mutex> guard(mutex_);
    generation_++;
    while (!turns_.empty()) remove(turns_.back(), freed);  // one by one: no destructor goes as deep as a prefix is long
}

PrefixCounts PrefixCache::counts() const {
    std::lock_guard<std::mutex> guard(mutex_);
    PrefixCounts counts = counts_;
    counts.limit = limit_;
    for (const Node* node : turns_) counts.idle += node->page.use_count() == 1 ? node->page->size() : 0;
    return counts;
}

}  // namespace tmoe
