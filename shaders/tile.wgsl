// tile: four output rows × TOKENS tokens of MATRICES matrices, the inner product of matmul and expert_matmul.
// Each output is one chain over the columns in order: one fma a block of 32 of quantised weights, whose integer dots are exact (so the order
// inside a block is free), one fma a column of float weights. TOKENS changes speed and never bits.
// Activations (binding `activations`): float weights f32 [rows][columns]; quantised weights blocks [rows][columns / 32] of 12 words, from
// quantise.wgsl: 8 of int8, the scale, the sums of columns 0 to 15 and 16 to 31, one unused.
// Defines: TYPE, QUANTISED, TOKENS, MATRICES, BROADCAST (subgroups of at least 8: each invocation loads one of 8 words and the
// subgroup shares them; for devices whose loads cost the same whether uniform or not), DOT4 (dot4I8Packed).

#include "bytes.wgsl"
#include "blocks.wgsl"

const tile_tokens = $TOKENS;
const matrices = $MATRICES;
const outputs = tile_tokens * matrices;

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

/** Outputs matrix by matrix: groups of 16 rows at these quads, activations of these rows. */
fn tile(groups: array<u32, matrices>, lane: u32, invocation: u32, rows: array<u32, tile_tokens>, columns: u32) -> array<vec4f, outputs> {
    var acc: array<vec4f, outputs>;
    let blocks = columns / 32u;
    for (var b = 0u; b < blocks; b++) {
        var a: array<Activations, tile_tokens>;
        for (var t = 0u; t < tile_tokens; t++) {
            a[t] = load_activations(rows[t] * blocks + b, invocation);
        }
        for (var m = 0u; m < matrices; m++) {
            let block = load_block(m, groups[m], lane, b);
            for (var t = 0u; t < tile_tokens; t++) {
                acc[m * tile_tokens + t] = add_product(block, a[t], acc[m * tile_tokens + t]);
            }
        }
    }
    return acc;
}

#else

/** Outputs matrix by matrix: groups of 16 rows at these quads, activations of these rows. */
fn tile(groups: array<u32, matrices>, lane: u32, invocation: u32, rows: array<u32, tile_tokens>, columns: u32) -> array<vec4f, outputs> {
    var acc: array<vec4f, outputs>;
    for (var column = 0u; column < columns; column++) {
        for (var m = 0u; m < matrices; m++) {
            let weight = load_column(m, groups[m], lane, column);
            for (var t = 0u; t < tile_tokens; t++) {
                acc[m * tile_tokens + t] = fma(weight, vec4(activations[rows[t] * columns + column]), acc[m * tile_tokens + t]);
            }
        }
    }
    return acc;
}

#endif
