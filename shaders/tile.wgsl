// tile: four output rows × TOKENS tokens of MATRICES matrices per invocation, the inner product of matmul and expert_matmul.
// Each output is one chain over the columns in order: one fma a block of 32 of quantised weights, whose integer dots are exact (so the order
// inside a block is free), one fma a column of float weights. TOKENS, PARTS and GROUP change speed and never bits.
// Activations (binding `activations`): float weights f32 [rows][columns]; quantised weights blocks [rows][columns / 32] of 3 quads, from
// quantise.wgsl: 8 words of int8, the scale, the sums of columns 0 to 15 and 16 to 31, one unused.
// A workgroup has GROUP × PARTS invocations: 4 · GROUP output rows, and PARTS times TOKENS tokens. It reads an activation once, into workgroup
// memory, and with PARTS a weight too, which the parts load in turn for all of them. A part that has no token only loads. With STAGE 0 invocations read
// both where they need them and meet no barrier: for CPUs, whose caches do as well.
// The caller has row_of(work, place): the activations' row of a tile's place, of which work.z are used; set_rows comes before tile.
// Defines: TYPE, QUANTISED, SIGNED, FIVE_BITS, MINIMUM (blocks.wgsl), TOKENS (1, 4 or 8), PARTS (1, or with workgroup memory and quantised weights 4), STAGE (blocks of 32 columns that are read
// at a time), MATRICES, BROADCAST (with STAGE 0 and subgroups of 8: each invocation reads one of 8 words and the subgroup shares them, and activations
// are bound as words; for devices whose reads cost the same whether uniform or not), DOT4 (dot4I8Packed), GROUP (a multiple of 8), COUNT_LOADS
// (`loads`: words of weights, of activations).

#include "bytes.wgsl"
#include "blocks.wgsl"

const tile_tokens = $TOKENS;
const parts = $PARTS;
const tile_rows = $TOKENS * $PARTS;
const matrices = $MATRICES;
const group_fours = $GROUP;
const invocations = $GROUP * $PARTS;

// Tokens are fields and statements of their own, not elements of arrays in a loop: WGSL's bounds checks keep compilers from unrolling such loops.

struct Outputs {
    t0: vec4f,
#if TOKENS != 1
    t1: vec4f,
    t2: vec4f,
    t3: vec4f,
#if TOKENS != 4
    t4: vec4f,
    t5: vec4f,
    t6: vec4f,
    t7: vec4f,
#endif
#endif
}

#if BROADCAST
alias Loaded = u32;
const loaded_words = 1u;
const unit = 12u;   // of 32 columns
#elif QUANTISED
alias Loaded = vec4u;
const loaded_words = 4u;
const unit = 3u;
#else
alias Loaded = f32;
const loaded_words = 1u;
const unit = 32u;
#endif

fn fetch_activations(at: u32) -> Loaded {
#if COUNT_LOADS
    atomicAdd(&loads[1], loaded_words);
#endif
    return activations[at];
}

#if STAGE == 0

/** The activations' row of each token, and the elements of a row. */
var<private> rows: array<u32, tile_tokens>;
var<private> row_length: u32;

fn set_rows(invocation: u32, work: vec4u) {
#if QUANTISED
    row_length = params.columns / 32u * unit;
#else
    row_length = params.columns;
#endif
    rows[0] = row_of(work, 0u);
#if TOKENS != 1
    rows[1] = row_of(work, 1u);
    rows[2] = row_of(work, 2u);
    rows[3] = row_of(work, 3u);
#if TOKENS != 4
    rows[4] = row_of(work, 4u);
    rows[5] = row_of(work, 5u);
    rows[6] = row_of(work, 6u);
    rows[7] = row_of(work, 7u);
#endif
#endif
}

/** Element `at` of token t's row. */
fn place(t: u32, at: u32) -> u32 {
    return rows[t] * row_length + at;
}

fn activations_at(at: u32) -> Loaded {
    return fetch_activations(at);
}

#else

const staged_blocks = $STAGE;
const staged_row = staged_blocks * unit;

/** The activations' row of each token. */
var<workgroup> rows: array<u32, tile_rows>;

fn set_rows(invocation: u32, work: vec4u) {
    for (var place = invocation; place < work.z; place += invocations) {
        rows[place] = row_of(work, place);
    }
}

/** Some blocks of them. */
var<workgroup> staged: array<Loaded, tile_rows * staged_row>;

/** Blocks from `first` on of the first `held` tokens, whose rows have `length` elements; all invocations together. */
fn stage(held: u32, first: u32, length: u32, invocation: u32) {
    for (var i = invocation; i < held * staged_row; i += invocations) {
        let at = first * unit + i % staged_row;
        if (at < length) {
            staged[i] = fetch_activations(rows[i / staged_row] * length + at);
        }
    }
}

fn place(t: u32, at: u32) -> u32 {
    return t * staged_row + at;
}

fn activations_at(at: u32) -> Loaded {
    return staged[at];
}

#endif

#if QUANTISED

#if BROADCAST
struct Activations {
    q: u32,       // word `invocation` of the block's eight
    rest: u32,    // scale, sum, sum, unused: of invocations 0, 1, 2 and 3
}

fn load_activations(at: u32, invocation: u32) -> Activations {
    return Activations(activations_at(at + invocation % 8u), activations_at(at + 8u + invocation % 4u));
}

fn add_product(block: Block, a: Activations, acc: vec4f) -> vec4f {
    let low = dot_word(block_words(block, 0u), subgroupBroadcast(a.q, 0u)) + dot_word(block_words(block, 1u), subgroupBroadcast(a.q, 1u)) +
              dot_word(block_words(block, 2u), subgroupBroadcast(a.q, 2u)) + dot_word(block_words(block, 3u), subgroupBroadcast(a.q, 3u));
    let high = dot_word(block_words(block, 4u), subgroupBroadcast(a.q, 4u)) + dot_word(block_words(block, 5u), subgroupBroadcast(a.q, 5u)) +
               dot_word(block_words(block, 6u), subgroupBroadcast(a.q, 6u)) + dot_word(block_words(block, 7u), subgroupBroadcast(a.q, 7u));
    return add_block(
        block, low, high, bitcast<f32>(subgroupBroadcast(a.rest, 0u)), bitcast<i32>(subgroupBroadcast(a.rest, 1u)),
        bitcast<i32>(subgroupBroadcast(a.rest, 2u)), acc
    );
}
#else
struct Activations {
    low: vec4u,
    high: vec4u,
    rest: vec4u,
}

fn load_activations(at: u32, invocation: u32) -> Activations {
    return Activations(activations_at(at), activations_at(at + 1u), activations_at(at + 2u));
}

fn add_product(block: Block, a: Activations, acc: vec4f) -> vec4f {
    let low = dot_word(block_words(block, 0u), a.low.x) + dot_word(block_words(block, 1u), a.low.y) +
              dot_word(block_words(block, 2u), a.low.z) + dot_word(block_words(block, 3u), a.low.w);
    let high = dot_word(block_words(block, 4u), a.high.x) + dot_word(block_words(block, 5u), a.high.y) +
               dot_word(block_words(block, 6u), a.high.z) + dot_word(block_words(block, 7u), a.high.w);
    return add_block(block, low, high, bitcast<f32>(a.rest.x), bitcast<i32>(a.rest.y), bitcast<i32>(a.rest.z), acc);
}
#endif

/** Four products of four rows: exact. */
fn dot_word(words: vec4u, q: u32) -> vec4i {
#if DOT4
    return vec4(dot4I8Packed(words.x, q), dot4I8Packed(words.y, q), dot4I8Packed(words.z, q), dot4I8Packed(words.w, q));
#else
    let a = signed_bytes(q);
#if SIGNED
    let w = bitcast<vec4i>(words);
    return ((w << vec4(24u)) >> vec4(24u)) * a.x + ((w << vec4(16u)) >> vec4(24u)) * a.y + ((w << vec4(8u)) >> vec4(24u)) * a.z +
           (w >> vec4(24u)) * a.w;
#else
    let byte = vec4(0xffu);
    return vec4i(words & byte) * a.x + vec4i((words >> vec4(8u)) & byte) * a.y + vec4i((words >> vec4(16u)) & byte) * a.z +
           vec4i(words >> vec4(24u)) * a.w;
#endif
#endif
}

struct TileActivations {
    t0: Activations,
#if TOKENS != 1
    t1: Activations,
    t2: Activations,
    t3: Activations,
#if TOKENS != 4
    t4: Activations,
    t5: Activations,
    t6: Activations,
    t7: Activations,
#endif
#endif
}

/** The block at `at` of each token from `first` on. */
fn load_tile(first: u32, at: u32, invocation: u32) -> TileActivations {
    var a: TileActivations;
    a.t0 = load_activations(place(first + 0u, at), invocation);
#if TOKENS != 1
    a.t1 = load_activations(place(first + 1u, at), invocation);
    a.t2 = load_activations(place(first + 2u, at), invocation);
    a.t3 = load_activations(place(first + 3u, at), invocation);
#if TOKENS != 4
    a.t4 = load_activations(place(first + 4u, at), invocation);
    a.t5 = load_activations(place(first + 5u, at), invocation);
    a.t6 = load_activations(place(first + 6u, at), invocation);
    a.t7 = load_activations(place(first + 7u, at), invocation);
#endif
#endif
    return a;
}

fn add_tile(block: Block, a: TileActivations, acc: Outputs) -> Outputs {
    var sum: Outputs;
    sum.t0 = add_product(block, a.t0, acc.t0);
#if TOKENS != 1
    sum.t1 = add_product(block, a.t1, acc.t1);
    sum.t2 = add_product(block, a.t2, acc.t2);
    sum.t3 = add_product(block, a.t3, acc.t3);
#if TOKENS != 4
    sum.t4 = add_product(block, a.t4, acc.t4);
    sum.t5 = add_product(block, a.t5, acc.t5);
    sum.t6 = add_product(block, a.t6, acc.t6);
    sum.t7 = add_product(block, a.t7, acc.t7);
#endif
#endif
    return sum;
}

#if STAGE != 0
#if PARTS != 1
/** Some blocks of the matrices, of each of the workgroup's four rows. */
var<workgroup> staged_weights: array<Block, staged_blocks * matrices * group_fours>;
#endif
#endif

/**
 * Outputs of each matrix: groups of 16 rows at these quads, for the `held` tokens of the workgroup. To be called in uniform control flow: it
 * has barriers.
 */
fn tile(groups: array<u32, matrices>, lane: u32, invocation: u32, held: u32, columns: u32) -> array<Outputs, matrices> {
    var first: Outputs;
#if MATRICES == 2
    var second: Outputs;
#endif
    let blocks = columns / 32u;
#if STAGE == 0
    for (var b = 0u; b < blocks; b++) {
        let a = load_tile(0u, b * unit, invocation);
        first = add_tile(load_block(0u, groups[0], lane, b), a, first);
#if MATRICES == 2
        second = add_tile(load_block(1u, groups[1], lane, b), a, second);
#endif
    }
#else
#if PARTS != 1
    let four = invocation % group_fours;
    let part = invocation / group_fours;
#endif
    for (var begin = 0u; begin < blocks; begin += staged_blocks) {
        let count = min(staged_blocks, blocks - begin);
        workgroupBarrier();
        stage(held, begin, blocks * unit, invocation);
#if PARTS != 1
        for (var i = part; i < count * matrices; i += parts) {
            let m = i % matrices;
            staged_weights[i * group_fours + four] = load_block(m, groups[m], lane, begin + i / matrices);
        }
        workgroupBarrier();
        if (part * tile_tokens < held) {
            for (var b = 0u; b < count; b++) {
                let a = load_tile(part * tile_tokens, b * unit, invocation);
                first = add_tile(staged_weights[b * matrices * group_fours + four], a, first);
#if MATRICES == 2
                second = add_tile(staged_weights[(b * matrices + 1u) * group_fours + four], a, second);
#endif
            }
        }
#else
        workgroupBarrier();
        for (var b = 0u; b < count; b++) {
            let a = load_tile(0u, b * unit, invocation);
            first = add_tile(load_block(0u, groups[0], lane, begin + b), a, first);
#if MATRICES == 2
            second = add_tile(load_block(1u, groups[1], lane, begin + b), a, second);
#endif
        }
#endif
    }
#endif
#if MATRICES == 2
    return array(first, second);
#else
    return array(first);
#endif
}

#else

/** Column `at` of each token. */
fn add_tile(weight: vec4f, at: u32, acc: Outputs) -> Outputs {
    var sum: Outputs;
    sum.t0 = fma(weight, vec4(activations_at(place(0u, at))), acc.t0);
#if TOKENS != 1
    sum.t1 = fma(weight, vec4(activations_at(place(1u, at))), acc.t1);
    sum.t2 = fma(weight, vec4(activations_at(place(2u, at))), acc.t2);
    sum.t3 = fma(weight, vec4(activations_at(place(3u, at))), acc.t3);
#if TOKENS != 4
    sum.t4 = fma(weight, vec4(activations_at(place(4u, at))), acc.t4);
    sum.t5 = fma(weight, vec4(activations_at(place(5u, at))), acc.t5);
    sum.t6 = fma(weight, vec4(activations_at(place(6u, at))), acc.t6);
    sum.t7 = fma(weight, vec4(activations_at(place(7u, at))), acc.t7);
#endif
#endif
    return sum;
}

/** As above. */
fn tile(groups: array<u32, matrices>, lane: u32, invocation: u32, held: u32, columns: u32) -> array<Outputs, matrices> {
    var first: Outputs;
#if MATRICES == 2
    var second: Outputs;
#endif
#if STAGE == 0
    for (var column = 0u; column < columns; column++) {
        first = add_tile(load_column(0u, groups[0], lane, column), column, first);
#if MATRICES == 2
        second = add_tile(load_column(1u, groups[1], lane, column), column, second);
#endif
    }
#else
    for (var begin = 0u; begin < columns; begin += staged_row) {
        workgroupBarrier();
        stage(held, begin / unit, columns, invocation);
        workgroupBarrier();
        let count = min(staged_row, columns - begin);
        for (var column = 0u; column < count; column++) {
            first = add_tile(load_column(0u, groups[0], lane, begin + column), column, first);
#if MATRICES == 2
            second = add_tile(load_column(1u, groups[1], lane, begin + column), column, second);
#endif
        }
    }
#endif
#if MATRICES == 2
    return array(first, second);
#else
    return array(first);
#endif
}

#endif
