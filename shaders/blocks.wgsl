// blocks: packed weights of TYPE, four rows at a time, from the storage bindings weights0 and, where MATRICES is 2, weights1.
// Addresses are quads: units of 16 bytes. `lane` is the four rows' place in their group of 16.
// Each type gives row_group (quads of a group of 16 rows) and
//   quantised: load_block (32 columns), block_words (g 0 to 7: columns 4g … 4g + 3, a byte each; with SIGNED signed ones) and add_block, which
//   adds a block's part to `acc` from the exact dots of its two halves and the sums of their activations: one fma a block (types with minimums:
//   two), blocks in order;
//   float: load_column.
// Defines: TYPE, SIGNED, FIVE_BITS (codes of five bits), MINIMUM (a minimum for each block of 32), MATRICES, F16 (the shader-f16 feature),
// COUNT_LOADS (counts the words that are read, for the bench of loads).

fn fetch(matrix: u32, quad: u32) -> vec4u {
#if COUNT_LOADS
    atomicAdd(&loads[0], 4u);
#endif
#if MATRICES == 2
    if (matrix == 1u) {
        return weights1[quad];
    }
#endif
    return weights0[quad];
}

/** Word `lane` of a quad. */
fn fetch_word(matrix: u32, quad: u32, lane: u32) -> u32 {
#if COUNT_LOADS
    atomicAdd(&loads[0], 1u);
#endif
#if MATRICES == 2
    if (matrix == 1u) {
        return weights1[quad][lane];
    }
#endif
    return weights0[quad][lane];
}

/** Words 2 · lane and 2 · lane + 1 of two quads. */
fn fetch_pair(matrix: u32, quad: u32, lane: u32) -> vec2u {
    let at = quad + lane / 2u;
    let word = lane % 2u * 2u;
    return vec2(fetch_word(matrix, at, word), fetch_word(matrix, at, word + 1u));
}

fn halves(word: u32) -> vec2f {
#if F16
    return vec2f(bitcast<vec2h>(word));
#else
    return unpack2x16float(word);
#endif
}

/** Halves 4 · lane … of the 16 in two quads. */
fn fetch_halves(matrix: u32, quad: u32, lane: u32) -> vec4f {
    let pair = fetch_pair(matrix, quad, lane);
    return vec4f(halves(pair.x), halves(pair.y));
}

#if TYPE == Q8_0
#include "blocks_q8_0.wgsl"
#elif TYPE == Q6_K
#include "blocks_q6_k.wgsl"
#elif TYPE == Q4_K
#include "blocks_k.wgsl"
#elif TYPE == Q5_K
#include "blocks_k.wgsl"
#elif TYPE == MXFP4
#include "blocks_mxfp4.wgsl"
#elif TYPE == IQ4_XS
#include "blocks_iq4_xs.wgsl"
#elif TYPE == F32
#include "blocks_f32.wgsl"
#elif TYPE == F16
#include "blocks_f16.wgsl"
#elif TYPE == BF16
#include "blocks_bf16.wgsl"
#else
#include "blocks_small.wgsl"
#endif
