// attention: softmax attention of a step's rows over paged keys and values (kv_write.wgsl has put this step's there before).
//
// Bindings   1 q [rows][heads][head_dim] f32   2 rows of (absolute position, first entry in `pages`)   3 pages   4 cache of one layer
//            5 out [rows][heads][value_dim] f32; where chunks > 1, partial results for attention_merge.wgsl:
//              [row - first_row][head][chunk][value_dim] sums, then [row][head][chunk] of (largest score, sum of weights)
//            6 status: the lowest row with a query or a score that is not finite   SINKS: 7 sinks [heads] f32
// Defines    F16: the cache has f16, two a word (else f32)   QUADS: value_dim is a multiple of 4
//            QUERIES 1, 2 or 4: rows × heads that share a workgroup and its reads   DIM: at least head_dim
//            TOGETHER: a block may have several rows   SINKS: each head has a score without a value (with chunks it is attention_merge.wgsl that adds it)
// Dispatch   [kv_heads · blocks of heads, blocks of rows, chunks of 256 positions], workgroups of 64. A block is block_rows × block_heads
//            queries of one KV head. Workgroups past a row's last position, or before every row's window, end at once.
// Numerics   scores: a lane is four neighbouring positions, d in order. Each chunk has its exact maximum first; weights are summed by
//            position mod 64 on every adapter, these by the same mod 8, and these in order; values: lanes are dimensions, positions in order (in as many strands as the lanes allow, added in
//            order). A result depends on the row's position alone: not on the batch, on chunks of the prompt or on how rows are tiled.

struct Params {
    first_row: u32,
    end_row: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    value_dim: u32,
    block_rows: u32,
    block_heads: u32,
    chunks: u32,
    scale: f32,
    window: u32,    // positions that a row sees; 0 = all
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read> cache: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> status: array<atomic<u32>>;
#if SINKS
@group(0) @binding(7) var<storage, read> sinks: array<f32>;
#endif

#include "math.wgsl"

const PAGE = 64u;
const CHUNK = 256u;
const LANES = 64u;
const QUERIES = u32($QUERIES);
const HIDDEN = -3.4e38;

/** One number for each query of a block. */
#if QUERIES == 1
alias Each = f32;
#else
alias Each = vec$QUERIES<f32>;
#endif

/** The queries that work together: rows of one sequence × heads of one KV head; those past `last_row` or the group see nothing. */
struct Block {
    first_row: u32,
    last_row: u32,
    first_head: u32,    // within the KV head's group
    kv_head: u32,
    page_entry: u32,    // of the sequence
    start: u32,         // first position of the chunk
    begin: u32,         // position of the chunk before which no query sees one
    count: u32,         // positions of the chunk up to the last that some query sees
}

/** Where one query reads and writes. */
struct Query {
    row: u32,
    head: u32,
    valid: bool,
}

var<workgroup> query: array<Each, $DIM>;
var<workgroup> weights: array<Each, CHUNK>;    // scores, then softmax weights, then strands of the values' sums
var<workgroup> maxima: array<Each, LANES>;
var<workgroup> sums: array<Each, LANES>;

fn query_of(block: Block, r: u32) -> Query {
    let group = params.heads / params.kv_heads;
    let row = block.first_row + r / params.block_heads;
    let head = block.first_head + r % params.block_heads;
    return Query(row, block.kv_head * group + head, row < block.last_row && head < group);
}

/** Where the result of a chunk goes; one chunk is never part of a launch that begins behind row 0. */
fn place_of(one: Query, chunk: u32) -> u32 {
    return ((one.row - params.first_row) * params.heads + one.head) * params.chunks + chunk;
}

/** Element d of a query, or its position: what a query that is none has, is seen by nobody. */
fn element_of(block: Block, r: u32, d: u32) -> f32 {
    let one = query_of(block, r);
    if (!one.valid) {
        return 0.0;
    }
    let value = q[(one.row * params.heads + one.head) * params.head_dim + d];
    if (!is_finite(value)) {
        atomicMin(&status[0], one.row);
    }
    return value;
}
/** Positions of the chunk that a query sees. */
fn visible_to(block: Block, r: u32) -> u32 {
    let one = query_of(block, r);
    if (!one.valid) {
        return 0u;
    }
    return max(rows[one.row].x + 1u, block.start) - block.start;
}

/** First position that a row sees of those up to its own, the last of `seen`. */
fn first_of(seen: u32) -> u32 {
    return select(0u, seen - min(seen, params.window), params.window > 0u);
}
/** Positions of the chunk before those that a query sees. */
fn hidden_from(block: Block, r: u32) -> u32 {
    let one = query_of(block, r);
    if (!one.valid) {
        return 0u;
    }
    return max(first_of(rows[one.row].x + 1u), block.start) - block.start;
}

#if SINKS
/** The sink of a query's head; a query that is none has one that counts for nothing. */
fn sink_of(block: Block, r: u32) -> f32 {
    let one = query_of(block, r);
    if (!one.valid) {
        return HIDDEN;
    }
    return sinks[one.head];
}
#endif

#if QUERIES == 1
#if SINKS
fn sink(block: Block) -> Each { return sink_of(block, 0u); }
#endif
fn hidden(block: Block) -> Counts { return hidden_from(block, 0u); }
alias Counts = u32;
fn visible(block: Block) -> Counts { return visible_to(block, 0u); }
fn load_query(block: Block, d: u32) { query[d] = element_of(block, 0u, d); }
fn exp_each(x: Each) -> Each { return exp_of(x); }
fn component(x: Each, r: u32) -> f32 { return x; }
#else
alias Counts = vec$QUERIES<u32>;
#if SINKS
fn sink(block: Block) -> Each {
    var scores = Each(HIDDEN);
    for (var r = 0u; r < params.block_rows * params.block_heads; r++) {
        scores[r] = sink_of(block, r);
    }
    return scores;
}
#endif
fn hidden(block: Block) -> Counts {
    var counts: Counts;
    for (var r = 0u; r < params.block_rows * params.block_heads; r++) {
        counts[r] = hidden_from(block, r);
    }
    return counts;
}
fn visible(block: Block) -> Counts {
    var counts: Counts;
    for (var r = 0u; r < params.block_rows * params.block_heads; r++) {
        counts[r] = visible_to(block, r);
    }
    return counts;
}
fn load_query(block: Block, d: u32) {
    for (var r = 0u; r < params.block_rows * params.block_heads; r++) {
        query[d][r] = element_of(block, r, d);
    }
}
fn component(x: Each, r: u32) -> f32 { return x[r]; }
#if QUERIES == 2
fn exp_each(x: Each) -> Each { return vec2(exp_of(x.x), exp_of(x.y)); }
#else
fn exp_each(x: Each) -> Each { return vec4(exp_of(x.x), exp_of(x.y), exp_of(x.z), exp_of(x.w)); }
#endif
#endif

/** Four elements of the cache, the first a multiple of 4. */
fn load_four(element: u32) -> vec4<f32> {
#if F16
    let words = cache[element / 4u];
    return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
#else
    return bitcast<vec4<f32>>(vec4(cache[element / 2u], cache[element / 2u + 1u]));
#endif
}

fn load_one(element: u32) -> f32 {
#if F16
    return unpack2x16float(cache[element / 4u][element / 2u % 2u])[element % 2u];
#else
    return bitcast<f32>(cache[element / 2u][element % 2u]);
#endif
}

/** First element of a KV head's part of the page that holds a position. */
fn page_start(block: Block, position: u32) -> u32 {
    return (pages[block.page_entry + position / PAGE] * params.kv_heads + block.kv_head) * PAGE * (params.head_dim + params.value_dim);
}

#if QUERIES == 1
alias Seen = bool;
#else
alias Seen = vec$QUERIES<bool>;
#endif
/** Which queries see a position of the chunk. */
fn sees(at: u32, before: Counts, counts: Counts) -> Seen {
    return (Counts(at) >= before) & (Counts(at) < counts);
}

/** Scores of this lane's four positions into `weights`. Returns the largest of each query. */
fn score(block: Block, lane: u32, before: Counts, counts: Counts) -> Each {
    var most = Each(HIDDEN);
    let first = 4u * lane;
    if (first < block.count && first + 4u > block.begin) {
        var a = Each(0.0);
        var b = Each(0.0);
        var c = Each(0.0);
        var d = Each(0.0);
        let slot = first % PAGE;
        var at = page_start(block, block.start + first) + slot / 16u * params.head_dim * 16u + slot % 16u;
        for (var i = 0u; i < params.head_dim; i++) {
            let keys = load_four(at);
            let element = query[i];
            a = fma(Each(keys.x), element, a);
            b = fma(Each(keys.y), element, b);
            c = fma(Each(keys.z), element, c);
            d = fma(Each(keys.w), element, d);
            at += 16u;
        }
        let unseen = Each(HIDDEN);
        a = select(unseen, a * params.scale, sees(first, before, counts));
        b = select(unseen, b * params.scale, sees(first + 1u, before, counts));
        c = select(unseen, c * params.scale, sees(first + 2u, before, counts));
        d = select(unseen, d * params.scale, sees(first + 3u, before, counts));
        weights[first] = a;
        weights[first + 1u] = b;
        weights[first + 2u] = c;
        weights[first + 3u] = d;
        most = max(max(a, b), max(c, d));
    }
    return most;
}

/** The largest of all lanes. */
fn largest(mine: Each, lane: u32) -> Each {
    maxima[lane] = mine;
    workgroupBarrier();
    if (lane < 8u) {
        for (var i = lane + 8u; i < LANES; i += 8u) {
            maxima[lane] = max(maxima[lane], maxima[i]);
        }
    }
    workgroupBarrier();
    var most = maxima[0];
    for (var i = 1u; i < 8u; i++) {
        most = max(most, maxima[i]);
    }
    return most;
}

/** Scores to softmax weights, in place. Returns the sum of this lane's. */
fn weigh(block: Block, lane: u32, before: Counts, counts: Counts, most: Each) -> Each {
    var sum = Each(0.0);
    for (var i = lane; i < block.count; i += LANES) {
        let weight = select(Each(0.0), exp_each(weights[i] - most), sees(i, before, counts));
        weights[i] = weight;
        sum += weight;
    }
    return sum;
}

fn sum_of_lanes(mine: Each, lane: u32) -> Each {
    sums[lane] = mine;
    workgroupBarrier();
    if (lane < 8u) {
        for (var i = lane + 8u; i < LANES; i += 8u) {
            sums[lane] += sums[i];
        }
    }
    workgroupBarrier();
    var total = sums[0];
    for (var i = 1u; i < 8u; i++) {
        total += sums[i];
    }
    return total;
}

/** Sums of values: of four neighbouring elements, or of one. */
#if QUADS
alias Sums = array<Each, 4>;
#else
alias Sums = array<Each, 1>;
#endif

/** Weighted sum of element(s) `item` of the values over slots strand, strand + strands, … of each page. */
fn sum_values(block: Block, item: u32, strand: u32, strands: u32) -> Sums {
    var totals: Sums;
    for (var base = 0u; base < block.count; base += PAGE) {
        let first = page_start(block, block.start + base) + PAGE * params.head_dim;
        let end = min(PAGE, block.count - base);
        for (var slot = strand; slot < end; slot += strands) {
            if (base + slot < block.begin) {
                continue;
            }
            let weight = weights[base + slot];
#if QUADS
            let values = load_four(first + slot * params.value_dim + 4u * item);
            totals[0] = fma(weight, Each(values.x), totals[0]);
            totals[1] = fma(weight, Each(values.y), totals[1]);
            totals[2] = fma(weight, Each(values.z), totals[2]);
            totals[3] = fma(weight, Each(values.w), totals[3]);
#else
            totals[0] = fma(weight, Each(load_one(first + slot * params.value_dim + item)), totals[0]);
#endif
        }
    }
    return totals;
}

fn store(block: Block, chunk: u32, item: u32, totals: Sums, divisor: Each) {
    for (var r = 0u; r < params.block_rows * params.block_heads; r++) {
        let one = query_of(block, r);
        if (one.valid) {
            let place = place_of(one, chunk);
            let by = component(divisor, r);
#if QUADS
            let at = place * params.value_dim + 4u * item;
            out[at] = component(totals[0], r) / by;
            out[at + 1u] = component(totals[1], r) / by;
            out[at + 2u] = component(totals[2], r) / by;
            out[at + 3u] = component(totals[3], r) / by;
#else
            out[place * params.value_dim + item] = component(totals[0], r) / by;
#endif
        }
    }
}

fn attend(block: Block, chunk: u32, lane: u32) {
    for (var d = lane; d < params.head_dim; d += LANES) {
        load_query(block, d);
    }
    workgroupBarrier();
    let before = hidden(block);
    let counts = visible(block);
    let score_most = largest(score(block, lane, before, counts), lane);
    var most = score_most;
#if SINKS
    let sunk = sink(block);
    most = max(most, sunk);
#endif
    var total = sum_of_lanes(weigh(block, lane, before, counts, most), lane);
#if SINKS
    total += exp_each(sunk - most);
#endif
    if (lane < QUERIES) {
        let one = query_of(block, lane);
        if (one.valid && !is_finite(component(score_most, lane))) {
            atomicMin(&status[0], one.row);
        }
        if (one.valid && params.chunks > 1u) {
            let places = (params.end_row - params.first_row) * params.heads * params.chunks;
            let place = place_of(one, chunk);
            out[places * params.value_dim + 2u * place] = component(most, lane);
            out[places * params.value_dim + 2u * place + 1u] = component(total, lane);
        }
    }
#if QUADS
    let items = params.value_dim / 4u;
    const SIZE = 4u;
#else
    let items = params.value_dim;
    const SIZE = 1u;
#endif
    let divisor = select(total, Each(1.0), params.chunks > 1u);
    let strands = min(max(LANES / items, 1u), PAGE);
    for (var base = 0u; base < items; base += LANES) {
        var totals: Sums;
        let item = base + lane % min(items, LANES);
        let strand = lane / min(items, LANES);
        if (strand < strands && item < items) {
            totals = sum_values(block, item, strand, strands);
        }
        if (strands > 1u) {    // only where one turn does all items
            workgroupBarrier();
            for (var i = 0u; i < SIZE; i++) {
                weights[SIZE * lane + i] = totals[i];
            }
            workgroupBarrier();
            for (var other = lane + items; other < strands * items; other += items) {
                for (var i = 0u; i < SIZE; i++) {
                    totals[i] += weights[SIZE * other + i];
                }
            }
        }
        if (strand == 0u && item < items) {
            store(block, chunk, item, totals, divisor);
        }
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head_blocks = (params.heads / params.kv_heads + params.block_heads - 1u) / params.block_heads;
    let end = min(params.first_row + (group.y + 1u) * params.block_rows, params.end_row);
    var block: Block;
    block.kv_head = group.x / head_blocks;
    block.first_head = group.x % head_blocks * params.block_heads;
    block.start = group.z * CHUNK;
    var row = params.first_row + group.y * params.block_rows;
#if TOGETHER
    while (row < end) {    // one turn for each sequence that has rows in this block
#else
    if (row < end) {
#endif
        var last = row + 1u;
        while (last < end && rows[last].y == rows[row].y) {
            last++;
        }
        let seen = rows[last - 1u].x + 1u;
        let begin = first_of(rows[row].x + 1u);
        if (seen > block.start && begin < block.start + CHUNK) {
            block.begin = max(begin, block.start) - block.start;
            block.first_row = row;
            block.last_row = last;
            block.page_entry = rows[row].y;
            block.count = min(seen - block.start, CHUNK);
            attend(block, group.z, lane);
        }
        row = last;
    }
}
