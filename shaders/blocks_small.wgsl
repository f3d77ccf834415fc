// blocks_small: Q4_0, Q4_1, Q5_0, Q5_1 and IQ4_NL in the kernels' layout (csrc/quant/repack.h). Per block of 32 columns × 16 rows 16 quads (of
// 16 bytes) of nibbles (quad 4g + lane: rows 4·lane …, low nibbles columns 4g …, high ones 16 + 4g …), with FIVE_BITS 4 of high bits (quad lane;
// bit g of byte c: column 4g + c), 2 of f16 scales, and with MINIMUM 2 of f16 minimums.

#if FIVE_BITS
const scale_quad = 20u;
#else
const scale_quad = 16u;
#endif
#if MINIMUM
const block_quads = scale_quad + 4u;
#else
const block_quads = scale_quad + 2u;
#endif

struct Block {
    n: array<vec4u, 4>,
#if FIVE_BITS
    high: vec4u,
#endif
    scale: vec4f,
#if MINIMUM
    least: vec4f,
#endif
}

fn row_group(columns: u32) -> u32 {
    return columns / 32u * block_quads;
}

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let at = group + b * block_quads;
    return Block(
        array(
            fetch(matrix, at + lane), fetch(matrix, at + 4u + lane), fetch(matrix, at + 8u + lane), fetch(matrix, at + 12u + lane)
        ),
#if FIVE_BITS
        fetch(matrix, at + 16u + lane),
#endif
        fetch_halves(matrix, at + scale_quad, lane),
#if MINIMUM
        fetch_halves(matrix, at + scale_quad + 2u, lane),
#endif
    );
}

#if TYPE == IQ4_NL
#include "iq4_values.wgsl"
const word_offset = 0;
#else
#include "nibbles.wgsl"
#if FIVE_BITS
const word_offset = 16;
#else
const word_offset = 8;
#endif
#endif

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
#if MINIMUM
    let scaled = fma(block.scale * scale, vec4f(low + high), acc);
    return fma(block.least * scale, vec4f(f32(low_sum + high_sum)), scaled);
#else
    return fma(block.scale * scale, vec4f(low + high - vec4(word_offset * (low_sum + high_sum))), acc);
#endif
}
