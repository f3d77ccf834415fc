// route, second pass: the k best experts of each token in the seeded total order, and their float weights (csrc/cpu/route.h, route_groups.h, route_hser.h).
//
// bindings   1 scores [tokens][rows] (low, high) and 2 exponents [tokens], from route_scores · 3 positions [tokens], absolute in each token's sequence
//            4 masks, bits: expert e of mask m is bit e % 32 of word m · mask_stride + mask_offset + e / 32 · 5 mask_of [tokens], 0xffffffff = all enabled
//            6 ids out [tokens][k] · 7 weights out [tokens][k] · 8 status: [0] lowest token whose logits leave the float range
//            9 topology (HSER): tier_groups [tiers + 1], then group_experts [groups + 1] · 10 asked out (HSER and SCORES) [tokens][rows]: scores, -2^63
//            where a router was not asked
//            of the other forms, next after 8: bias [experts] (BIAS), selection_bias [experts] (low, high) (SELECTION)
// defines    HSER: the hierarchical form · SCORES: with binding 10 · PICKED: words of the lists of chosen rows, at least k (HSER: 1024)
//            SIGMOID: the chosen are weighed by their sigmoids · BY_SIGMOID: all are ranked by theirs · BIAS, SELECTION: see bindings
//            GROUPS: the best groups stay · TOP2: a group's score is the sum of its two best
// dispatch   64 invocations; one workgroup for one token, folded into x and y
// numbers    a row's rank is the number of rows that stand before it: score descending, tie hash ascending, index ascending; integers only. Weights: logit as on
//            the CPU (rounded by integers), exp(logit - largest), sums by lane = place mod 16, then the tree 8-4-2-1.
#include "int64.wgsl"
#include "route_score.wgsl"
#include "tie_hash.wgsl"
#include "math.wgsl"

struct Params {
    seed: vec4<u32>,
    layer: u32,
    tokens: u32,
    rows: u32,
    experts: u32,
    k: u32,
    over_chosen: u32,     // 1: the softmax runs over the chosen rows only (topk_softmax)
    normalise: u32,
    exponent: i32,        // of the experts' router, less 46
    mask_stride: u32,
    mask_offset: u32,
    scale: f32,           // of the weights
    bias_exponent: i32,
    choice_groups: u32,   // GROUPS: equal groups of experts, and how many stay
    choice_used: u32,
    groups: u32,          // from here on: HSER
    tiers: u32,
    k_tier: u32,
    k_group: u32,
    k_expert: u32,
    group_exponent: i32,
    tier_exponent: i32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> exponents: array<i32>;
@group(0) @binding(3) var<storage, read> positions: array<u32>;
@group(0) @binding(4) var<storage, read> masks: array<u32>;
@group(0) @binding(5) var<storage, read> mask_of: array<u32>;
@group(0) @binding(6) var<storage, read_write> ids: array<u32>;
@group(0) @binding(7) var<storage, read_write> weights: array<f32>;
@group(0) @binding(8) var<storage, read_write> status: array<atomic<u32>>;
#if HSER
@group(0) @binding(9) var<storage, read> topology: array<u32>;
#if SCORES
@group(0) @binding(10) var<storage, read_write> asked: array<vec2<u32>>;
#endif
#endif
#if BIAS
@group(0) @binding(9) var<storage, read> bias: array<i32>;
#endif
#if SELECTION
#if BIAS
@group(0) @binding(10) var<storage, read> selection_bias: array<vec2<u32>>;
#else
@group(0) @binding(9) var<storage, read> selection_bias: array<vec2<u32>>;
#endif
#endif

const lanes = 64u;
const disabled = vec2<u32>(0u, 0x80000000u);   // below every score

// Rows by rank, with their probabilities. HSER: tiers from 0, groups of a tier from 256, experts of a group from 512, all weights from 768.
var<workgroup> picked: array<u32, $PICKED>;
var<workgroup> probability: array<f32, $PICKED>;
var<workgroup> tile_score: array<vec2<u32>, 64>;
var<workgroup> tile_hash: array<u32, 64>;
var<workgroup> tile_exp: array<f32, 64>;
var<workgroup> tile_place: u32;
var<workgroup> lane_sum: array<f32, 16>;
#if GROUPS
var<workgroup> group_score: array<vec2<u32>, 256>;
var<workgroup> group_kept: array<u32, 256>;
var<workgroup> tile_enabled: array<u32, 64>;
#endif

struct Row {
    rank: vec2<u32>,     // what it is ordered by
    hash: u32,
    score: vec2<u32>,    // what its logit is made of
    enabled: bool,
}

const no_row = Row(disabled, 0xffffffffu, disabled, false);

/** One router's rows [first, last) for one token. */
struct Level {
    token: u32,
    base: u32,       // where the router begins in the stack of all
    first: u32,
    last: u32,
    k: u32,
    exponent: i32,   // of a score
    list: u32,       // where the chosen stand in `picked`
}

fn any_enabled(token: u32, first: u32, last: u32) -> bool {
    let mask = mask_of[token];
    if (mask == 0xffffffffu) { return true; }
    let word = mask * params.mask_stride + params.mask_offset;
    for (var e = first; e < last; e++) {
        if (((masks[word + e / 32u] >> (e % 32u)) & 1u) != 0u) { return true; }
    }
    return false;
}

fn enabled(level: Level, row: u32) -> bool {
#if HSER
    let group_experts = params.tiers + 1u;
    if (level.base > params.experts) {   // a tier
        return any_enabled(level.token, topology[group_experts + topology[row]], topology[group_experts + topology[row + 1u]]);
    }
    if (level.base == params.experts) { return any_enabled(level.token, topology[group_experts + row], topology[group_experts + row + 1u]); }
#endif
    return any_enabled(level.token, row, row + 1u);
}

/** The exponent of `Row.score`. */
fn unit_of(level: Level) -> i32 {
#if BIAS
    return biased_exponent(level.exponent, bias_shift(level.exponent, params.bias_exponent));
#else
    return level.exponent;
#endif
}

fn score_of(level: Level, row: u32) -> vec2<u32> {
    let score = scores[level.token * params.rows + level.base + row];
#if BIAS
    return biased(score, bias[row], bias_shift(level.exponent, params.bias_exponent));
#else
    return score;
#endif
}

/** What an enabled row is ordered by. */
fn rank_of(level: Level, row: u32, score: vec2<u32>) -> vec2<u32> {
#if BY_SIGMOID
    let rank = vec2<u32>(sigmoid_q30(score, unit_of(level)), 0u);
#if SELECTION
    return i64_add(rank, selection_bias[row]);
#else
    return rank;
#endif
#else
    return score;
#endif
}

#if GROUPS
/** Which groups stay. All invocations of the workgroup call it together. */
fn keep_groups(lane: u32, level: Level) {
    let size = params.experts / params.choice_groups;
    for (var g = lane; g < params.choice_groups; g += lanes) {
        var best = disabled;
        var second = disabled;
        for (var e = g * size; e < (g + 1u) * size; e++) {
            if (!enabled(level, e)) { continue; }
            let rank = rank_of(level, e, score_of(level, e));
            if (i64_less(best, rank)) {
                second = best;
                best = rank;
            } else if (i64_less(second, rank)) {
                second = rank;
            }
        }
#if TOP2
        if (any(second != disabled)) { best = i64_add(best, second); }
#endif
        group_score[g] = best;
    }
    workgroupBarrier();
    for (var g = lane; g < params.choice_groups; g += lanes) {
        let own = group_score[g];
        let hash = tie_hash(params.seed, params.layer, positions[level.token], params.experts + g);
        var before = 0u;
        for (var other = 0u; other < params.choice_groups; other++) {
            let score = group_score[other];
            if (all(score == own)) {
                let its = tie_hash(params.seed, params.layer, positions[level.token], params.experts + other);
                before += select(0u, 1u, its < hash || (its == hash && other < g));
            } else if (i64_less(own, score)) {
                before += 1u;
            }
        }
        group_kept[g] = select(0u, 1u, before < params.choice_used);
    }
    workgroupBarrier();
}
#endif

fn row_of(level: Level, row: u32) -> Row {
    if (row >= level.last) { return no_row; }
    let index = level.base + row;
    let at = level.token * params.rows + index;
#if HSER
#if SCORES
    asked[at] = scores[at];
#endif
#endif
    if (!enabled(level, row)) { return no_row; }
    let score = score_of(level, row);
#if GROUPS
    if (group_kept[row / (params.experts / params.choice_groups)] == 0u) { return Row(disabled, 0xffffffffu, score, true); }
#endif
    return Row(rank_of(level, row, score), tie_hash(params.seed, params.layer, positions[level.token], index), score, true);
}

/** The sum of 16 lanes by the tree 8-4-2-1, the same in every invocation. */
fn tree_sum() -> f32 {
    var sum: array<f32, 8>;
    for (var i = 0u; i < 8u; i++) { sum[i] = lane_sum[i] + lane_sum[i + 8u]; }
    for (var i = 0u; i < 4u; i++) { sum[i] = sum[i] + sum[i + 4u]; }
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/** The k best rows of a level by rank, each with its probability. All invocations of the workgroup call it together. */
fn choose(lane: u32, level: Level) {
    let tiles = (level.last - level.first + lanes - 1u) / lanes;
    var lane_total = 0.0;
    for (var t = 0u; t < tiles; t++) {
        // against all rows, 64 at a time, its own 64 first
        let row = level.first + t * lanes + lane;
        var own: Row;
        var rank = 0u;     // rows before it in the total order
        var place = 0u;    // enabled rows before it by index
        var best = disabled;
        for (var n = 0u; n < tiles; n++) {
            let tile = level.first + (t + n) % tiles * lanes;
            let other = row_of(level, tile + lane);
            if (n == 0u) { own = other; }
            workgroupBarrier();
            tile_score[lane] = other.rank;
            tile_hash[lane] = other.hash;
#if GROUPS
            tile_enabled[lane] = u32(other.enabled);
#endif
            workgroupBarrier();
            let count = min(lanes, level.last - tile);
            for (var i = 0u; i < count; i++) {
                let score = tile_score[i];
                if (all(score == own.rank)) {
                    let hash = tile_hash[i];
                    rank += select(0u, 1u, hash < own.hash || (hash == own.hash && tile + i < row));
                } else if (i64_less(own.rank, score)) {
                    rank += 1u;
                }
#if GROUPS
                let counts = tile_enabled[i] != 0u;
#else
                let counts = any(score != disabled);
#endif
                place += select(0u, 1u, tile + i < row && counts);
                if (i64_less(best, score)) { best = score; }
            }
        }
        let is_enabled = own.enabled;
        let logit = clamp(bitcast<f32>(i64_to_f32_bits(own.score, unit_of(level))), -3.0e38, 3.4028234e38);
#if SIGMOID
        let e = sigmoid(logit);
#else
        // the best rank is the largest score: a group with it stays
        let top = i64_to_f32_bits(best, unit_of(level));
        if (lane == 0u && (top & 0x7f800000u) == 0x7f800000u) { atomicMin(&status[0], level.token); }
        var e = 0.0;
        if (is_enabled) { e = exp_of(logit - bitcast<f32>(top)); }
#endif
        if (any(own.rank != disabled) && rank < level.k) {
            picked[level.list + rank] = row;
            probability[level.list + rank] = e;
        }
        // what the enabled rows of this tile add to the 16 lanes of the sum, in the order of their places
        tile_exp[lane] = 0.0;
        if (lane == 0u) { tile_place = place; }
        workgroupBarrier();
        if (is_enabled) { tile_exp[place - tile_place] = e; }
        workgroupBarrier();
        if (lane < 16u) {
            for (var i = (lane - tile_place) & 15u; i < lanes; i += 16u) { lane_total += tile_exp[i]; }
        }
    }
    if (params.over_chosen != 0u && lane < 16u) {
        lane_total = 0.0;
        for (var s = lane; s < level.k; s += 16u) { lane_total += probability[level.list + s]; }
    }
    if (lane < 16u) { lane_sum[lane] = lane_total; }
    workgroupBarrier();
#if SIGMOID
    let sum = 1.0;
#else
    let sum = tree_sum();
#endif
    for (var s = lane; s < level.k; s += lanes) { probability[level.list + s] = probability[level.list + s] / sum; }
    workgroupBarrier();
}

/** Weights `list` … `list + k - 1` of `probability` to the output. */
fn put_weights(lane: u32, token: u32, list: u32) {
    var sum = 1.0;
    if (params.normalise != 0u) {
        sum = 0.0;
        for (var s = 0u; s < params.k; s++) { sum = sum + probability[list + s]; }
        sum = sum + 1.0e-20;
    }
    for (var s = lane; s < params.k; s += lanes) { weights[token * params.k + s] = probability[list + s] / sum * params.scale; }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.x + group.y * groups.x;
    if (token >= params.tokens) { return; }
    let exponent = exponents[token];
#if HSER
#if SCORES
    for (var row = lane; row < params.rows; row += lanes) { asked[token * params.rows + row] = disabled; }
    storageBarrier();
#endif
    // the tiers; then of each chosen tier the groups, and of each of these the experts: one call of `choose`, because it is large
    let each = 1u + params.k_group;
    for (var step = 0u; step < 1u + params.k_tier * each; step++) {
        let i = (step - min(step, 1u)) / each;        // rank of the tier
        let j = (step - min(step, 1u)) % each;        // 0: its groups; else the experts of the group of rank j - 1
        var level = Level(token, params.experts + params.groups, 0u, params.tiers, params.k_tier, exponent + params.tier_exponent, 0u);
        if (step > 0u && j == 0u) {
            let tier = workgroupUniformLoad(&picked[i]);
            level = Level(token, params.experts, topology[tier], topology[tier + 1u], params.k_group, exponent + params.group_exponent, 256u);
        } else if (step > 0u) {
            let chosen = params.tiers + 1u + workgroupUniformLoad(&picked[255u + j]);
            level = Level(token, 0u, topology[chosen], topology[chosen + 1u], params.k_expert, exponent + params.exponent, 512u);
        }
        choose(lane, level);
        if (step > 0u && j > 0u) {
            let both = probability[i] * probability[255u + j];
            for (var s = lane; s < params.k_expert; s += lanes) {
                let slot = (i * params.k_group + j - 1u) * params.k_expert + s;
                ids[token * params.k + slot] = picked[512u + s];
                probability[768u + slot] = both * probability[512u + s];
            }
        }
    }
    workgroupBarrier();
    put_weights(lane, token, 768u);
#else
    let level = Level(token, 0u, 0u, params.experts, params.k, exponent + params.exponent, 0u);
#if GROUPS
    keep_groups(lane, level);
#endif
    choose(lane, level);
    for (var s = lane; s < params.k; s += lanes) { ids[token * params.k + s] = picked[s]; }
    put_weights(lane, token, 0u);
#endif
}
