#include "core/prefetcher.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tmoe {

namespace {

constexpr uint64_t kTrial = 8;             // a layer where reading ahead does not pay is looked at every so many steps
constexpr double kMostForNothing = 0.08;   // of all bytes
constexpr double kMostCredit = 8;          // experts: what was saved long ago is not spent at once
constexpr uint32_t kMoveSteps = 8;         // of a moving average
constexpr float kNotChosen = -std::numeric_limits<float>::infinity();
// A margin is a score's distance from the middle between the last chosen and the first that is not, in standard deviations of all scores.
constexpr float kLeastMargin = -0.1f;
constexpr float kMarginBounds[] = {-0.05f, 0, 0.05f, 0.1f, 0.2f, 0.3f, 0.5f, 1};
constexpr float kGoodMargin = 0.05f;       // expected to come true until counted

}  // namespace

Prefetcher::Prefetcher(PrefetchMode mode, const RoutingShape& shape)
    : mode_(mode), shape_(shape), moved_(shape.layers), guesses_(shape.layers), in_guess_(shape.mask_size()), asked_(shape.mask_size()), made_(shape.layers),
      margins_(shape.experts), order_(shape.experts), layers_(shape.layers) {
    static_assert(kMarginBins == sizeof kMarginBounds / sizeof *kMarginBounds + 1, "a bin on either side of each bound");
    odds_.resize(shape.layers * kMostLead * kMarginBins);
    for (size_t i = 0; i < odds_.size(); i++) odds_[i].used = i % kMarginBins >= bin_of(kGoodMargin) ? 3 : 1;
}

Status Prefetcher::reserve(size_t width, size_t rows) {
    width_ = width;
    TMOE_RETURN_IF_ERROR(last_.allocate(kMostTokens * width * sizeof(float)));
    TMOE_RETURN_IF_ERROR(moves_.allocate(shape_.layers * width * sizeof(float)));
    TMOE_RETURN_IF_ERROR(states24.allocate(kMostTokens * width * sizeof(int32_t)));
    TMOE_RETURN_IF_ERROR(ids.allocate(kMostTokens * shape_.k * sizeof(int32_t)));
    TMOE_RETURN_IF_ERROR(weights.allocate(kMostTokens * shape_.k * sizeof(float)));
    TMOE_RETURN_IF_ERROR(scores.allocate(kMostTokens * rows * sizeof(int64_t)));
    return probabilities.allocate(kMostTokens * rows * sizeof(float));
}

uint64_t Prefetcher::bytes(const Plan& plan) {
    uint64_t most = 0, widest = 0, layers = 0;
    for (const PlanOp& op : plan.ops) {
        if (op.kind != OpKind::Route) continue;
        const uint64_t rows = plan.tensors[op.weight].shape[1] + op.hser.tier_groups.size() + op.hser.group_experts.size();
        const uint64_t width = plan.buffer_widths[op.in];
        layers++;
        widest = std::max(widest, width);
        most = std::max(most, 2 * width + 2 * uint64_t{op.k} + 3 * rows);
    }
    return (most * kMostTokens + layers * widest) * sizeof(float) + 7 * 64;  // seven blocks, each rounded up
}

void Prefetcher::begin_step(size_t tokens, const StoreCounts& counts, size_t expert_bytes) {
    tokens_ = tokens;
    seen_ = 0;
    step_++;
    for (std::vector<Guess>& guesses : guesses_) guesses.clear();  // of a step that did not end
    for (std::vector<uint8_t>* flags : {&in_guess_, &asked_, &made_}) std::fill(flags->begin(), flags->end(), uint8_t{0});
    // What was read ahead and has not been used yet counts as read for nothing until it is.
    const double all = static_cast<double>(counts.asked_bytes);
    const double unused = static_cast<double>(counts.ahead_bytes) - static_cast<double>(counts.prefetch_used);
    const double earned = ((all - seen_all_) * kMostForNothing - (unused - seen_unused_)) / static_cast<double>(expert_bytes);
    credit_ = std::min(kMostCredit, credit_ + earned);
    most_missed_ = std::max(0.0, credit_ / kMostCredit) * (100 - kLeastPerCent) / 100;
    seen_all_ = all;
    seen_unused_ = unused;
}

/** Some kind of guess pays, or none has been counted yet. */
bool Prefetcher::pays(size_t layer) const {
    const Odds* odds = odds_.data() + layer * kMostLead * kMarginBins;
    bool counted = false;
    for (size_t i = 0; i < kMostLead * kMarginBins; i++) {
        if (!odds[i].counted()) continue;
        if (odds[i].pays()) return true;
        counted = true;
    }
    return !counted;
}

bool Prefetcher::wanted(size_t layer) const {
    if (!on() || layer >= shape_.layers) return false;
    return mode_ == PrefetchMode::On || step_ % kTrial == 0 || pays(layer);
}

void Prefetcher::see(size_t layer, const float* states) {
    float* last = last_.as<float>();
    if (layer != kEmbeddings && seen_ == layer + 1) {
        float* move = moves_.as<float>() + layer * width_;
        if (moved_[layer] < kMoveSteps) moved_[layer]++;
        const float share = 1.0f / static_cast<float>(moved_[layer]), mean = 1.0f / static_cast<float>(tokens_);
        for (size_t i = 0; i < width_; i++) {
            float sum = 0;
            for (size_t t = 0; t < tokens_; t++) sum += states[t * width_ + i] - last[t * width_ + i];
            const float next = move[i] + share * (sum * mean - move[i]);
            move[i] = std::isfinite(next) ? next : 0;
        }
    }
    memcpy(last, states, tokens_ * width_ * sizeof(float));
    seen_ = layer == kEmbeddings ? 1 : layer + 2;
}

void Prefetcher::foresee(size_t lead, float* states) const {
    const float* last = last_.as<float>();
    const float* moves = moves_.as<float>() + (seen_ - 1) * width_;
    memcpy(states, last, tokens_ * width_ * sizeof(float));
    for (size_t l = 0; l < lead; l++) {
        for (size_t t = 0; t < tokens_; t++) {
            for (size_t i = 0; i < width_; i++) states[t * width_ + i] += moves[l * width_ + i];
        }
    }
}

size_t Prefetcher::bin_of(float margin) {
    return static_cast<size_t>(std::upper_bound(std::begin(kMarginBounds), std::end(kMarginBounds), margin) - std::begin(kMarginBounds));
}

/** Raises each expert's margin to its place among this token's. */
void Prefetcher::add_ranks(const int32_t* ids) {
    for (size_t rank = 0; rank < shape_.k; rank++) {
        float& margin = margins_[static_cast<size_t>(ids[rank])];
        margin = std::max(margin, static_cast<float>(shape_.k - rank) / static_cast<float>(shape_.k));
    }
}

/** Raises each expert's margin to this token's. */
void Prefetcher::add_margins(const float* scores, const uint8_t* mask) {
    const size_t k = shape_.k, experts = shape_.experts;
    size_t enabled = 0;
    double sum = 0, squares = 0;
    for (size_t e = 0; e < experts; e++) {
        if (mask && !mask[e]) continue;
        const double score = static_cast<double>(scores[e]);
        sum += score;
        squares += score * score;
        order_[enabled++] = scores[e];
    }
    const auto rest = order_.begin() + static_cast<std::ptrdiff_t>(k), end = order_.begin() + static_cast<std::ptrdiff_t>(enabled);
    std::nth_element(order_.begin(), rest - 1, end, std::greater<>());
    const double last = static_cast<double>(order_[k - 1]), first_out = rest < end ? static_cast<double>(*std::max_element(rest, end)) : last;
    const double mean = sum / static_cast<double>(enabled), deviation = std::sqrt(std::max(0.0, squares / static_cast<double>(enabled) - mean * mean));
    if (!(deviation > 0)) return;
    for (size_t e = 0; e < experts; e++) {
        if (mask && !mask[e]) continue;
        margins_[e] = std::max(margins_[e], static_cast<float>((static_cast<double>(scores[e]) - (last + first_out) / 2) / deviation));
    }
}

void Prefetcher::predict(size_t layer, size_t lead, const Foreseen& foreseen, const ExpertStore& store, std::vector<uint32_t>& ahead) {
    made_[layer] = 1;
    uint8_t* in_guess = in_guess_.data() + layer * shape_.experts;
    uint8_t* asked = asked_.data() + layer * shape_.experts;
    std::fill(margins_.begin(), margins_.end(), kNotChosen);
    for (size_t token = 0; token < tokens_; token++) {
        if (foreseen.scores) add_margins(foreseen.scores + token * shape_.experts, foreseen.masks ? foreseen.masks[token] : nullptr);
        else add_ranks(foreseen.ids + token * shape_.k);
    }
    candidates_.clear();
    for (uint32_t e = 0; e < shape_.experts; e++) {
        if (margins_[e] >= kLeastMargin) candidates_.push_back({e, margins_[e]});
    }
    std::sort(candidates_.begin(), candidates_.end(),
              [](const Candidate& a, const Candidate& b) { return a.margin != b.margin ? a.margin > b.margin : a.expert < b.expert; });
    uint64_t count = 0;
    for (const Candidate& candidate : candidates_) {
        const uint32_t expert = candidate.expert;
        if (candidate.margin > 0) in_guess[expert] = 1;
        if (store.holds(static_cast<uint32_t>(layer), expert)) {
            if (candidate.margin > 0) ahead.push_back(expert);  // to be kept
            continue;
        }
        Odds& chance = odds(layer, lead)[bin_of(candidate.margin)];
        if (!asked[expert]) guesses_[layer].push_back({expert, &chance});
        if (mode_ == PrefetchMode::Auto) {
            if (chance.missed() > most_missed_) continue;
        } else if (candidate.margin <= 0) {
            continue;
        }
        asked[expert] = 1;
        ahead.push_back(expert);
        count++;
    }
    std::lock_guard<std::mutex> lock(mutex_);
    layers_[layer].asked += count;
    layers_[layer].active = mode_ == PrefetchMode::On || pays(layer);
}

void Prefetcher::observe(size_t layer, const std::vector<uint32_t>& experts, const ExpertStore& store) {
    if (!made_[layer]) return;
    made_[layer] = 0;
    uint8_t* in_guess = in_guess_.data() + layer * shape_.experts;
    for (const Guess& guess : guesses_[layer]) guess.odds->count(std::binary_search(experts.begin(), experts.end(), guess.expert));
    guesses_[layer].clear();
    uint64_t predicted = 0, present = 0;
    for (uint32_t expert : experts) {
        predicted += in_guess[expert] != 0;
        present += store.holds(static_cast<uint32_t>(layer), expert);
    }
    std::lock_guard<std::mutex> lock(mutex_);
    layers_[layer].wanted += experts.size();
    layers_[layer].predicted += predicted;
    layers_[layer].present += present;
}

std::vector<Prefetcher::Layer> Prefetcher::layers() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return layers_;
}

}  // namespace tmoe
