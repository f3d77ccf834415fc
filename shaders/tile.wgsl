// tile: four output rows × TOKENS tokens of MATRICES matrices, the inner product of matmul and expert_matmul.
// Each output is one chain over the columns in order: one fma a block of 32 of quantised weights, whose integer dots are exact (so the order
// inside a block is free), one fma a column of float weights. TOKENS changes speed and never bits.
// Activations (binding `activations`): float weights f32 [rows][columns]; quantised weights blocks [rows][columns / 32] of 12 words, from
// quantise.wgsl: 8 of int8, the scale, the sums of columns 0 to 15 and 16 to 31, one unused.
// Defines: TYPE, QUANTISED, TOKENS, MATRICES, BROADCAST (subgroups of at least 8: each invocation loads one of 8 words and the
// subgroup shares them; for devices whose loads cost the same whether uniform or not), DOT4 (dot4I8Packed), GROUP (invocations of a workgroup).

#include "bytes.wgsl"
#include "blocks.wgsl"

const tile_tokens = $TOKENS;
const matrices = $MATRICES;

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

struct Rows {
    t0: u32,
#if TOKENS != 1
    t1: u32,
    t2: u32,
    t3: u32,
#if TOKENS != 4
    t4: u32,
    t5: u32,
    t6: u32,
    t7: u32,
#endif
#endif
}

#if QUANTISED

#if BROADCAST
struct Activations {
    q: u32,       // word `invocation` of the block's eight
    rest: u32,    // scale, sum, sum, unused: of invocations 0, 1, 2 and 3
}

fn load_activations(block: u32, invocation: u32) -> Activations {
    return Activations(activations[block * 12u + invocation % 8u], activations[block * 12u + 8u + invocation % 4u]);
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

fn load_activations(block: u32, invocation: u32) -> Activations {
    return Activations(activations[block * 3u], activations[block * 3u + 1u], activations[block * 3u + 2u]);
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
#if TYPE == Q8_0
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

fn load_tile(rows: Rows, blocks: u32, b: u32, invocation: u32) -> TileActivations {
    var a: TileActivations;
    a.t0 = load_activations(rows.t0 * blocks + b, invocation);
#if TOKENS != 1
    a.t1 = load_activations(rows.t1 * blocks + b, invocation);
    a.t2 = load_activations(rows.t2 * blocks + b, invocation);
    a.t3 = load_activations(rows.t3 * blocks + b, invocation);
#if TOKENS != 4
    a.t4 = load_activations(rows.t4 * blocks + b, invocation);
    a.t5 = load_activations(rows.t5 * blocks + b, invocation);
    a.t6 = load_activations(rows.t6 * blocks + b, invocation);
    a.t7 = load_activations(rows.t7 * blocks + b, invocation);
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

/** Outputs of each matrix: groups of 16 rows at these quads, activations of these rows. */
fn tile(groups: array<u32, matrices>, lane: u32, invocation: u32, rows: Rows, columns: u32) -> array<Outputs, matrices> {
    var first: Outputs;
#if MATRICES == 2
    var second: Outputs;
#endif
    let blocks = columns / 32u;
    for (var b = 0u; b < blocks; b++) {
        let a = load_tile(rows, blocks, b, invocation);
        first = add_tile(load_block(0u, groups[0], lane, b), a, first);
#if MATRICES == 2
        second = add_tile(load_block(1u, groups[1], lane, b), a, second);
#endif
    }
#if MATRICES == 2
    return array(first, second);
#else
    return array(first);
#endif
}

#else

fn add_tile(weight: vec4f, rows: Rows, columns: u32, column: u32, acc: Outputs) -> Outputs {
    var sum: Outputs;
    sum.t0 = fma(weight, vec4(activations[rows.t0 * columns + column]), acc.t0);
#if TOKENS != 1
    sum.t1 = fma(weight, vec4(activations[rows.t1 * columns + column]), acc.t1);
    sum.t2 = fma(weight, vec4(activations[rows.t2 * columns + column]), acc.t2);
    sum.t3 = fma(weight, vec4(activations[rows.t3 * columns + column]), acc.t3);
#if TOKENS != 4
    sum.t4 = fma(weight, vec4(activations[rows.t4 * columns + column]), acc.t4);
    sum.t5 = fma(weight, vec4(activations[rows.t5 * columns + column]), acc.t5);
    sum.t6 = fma(weight, vec4(activations[rows.t6 * columns + column]), acc.t6);
    sum.t7 = fma(weight, vec4(activations[rows.t7 * columns + column]), acc.t7);
#endif
#endif
    return sum;
}

/** Outputs of each matrix: groups of 16 rows at these quads, activations of these rows. */
fn tile(groups: array<u32, matrices>, lane: u32, invocation: u32, rows: Rows, columns: u32) -> array<Outputs, matrices> {
    var first: Outputs;
#if MATRICES == 2
    var second: Outputs;
#endif
    for (var column = 0u; column < columns; column++) {
        first = add_tile(load_column(0u, groups[0], lane, column), rows, columns, column, first);
#if MATRICES == 2
        second = add_tile(load_column(1u, groups[1], lane, column), rows, columns, column, second);
#endif
    }
#if MATRICES == 2
    return array(first, second);
#else
    return array(first);
#endif
}

#endif
