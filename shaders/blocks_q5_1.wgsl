// blocks_q5_1: Q5_1 in the kernels' layout (csrc/quant/repack.h). Per block of 32 columns × 16 rows 24 quads (of 16 bytes): 16 of nibbles and 4 of
// high bits (as Q5_0), then 2 of f16 scales and 2 of f16 minimums.

struct Block {
    n: array<vec4u, 4>,
    high: vec4u,
    scale: vec4f,
    least: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 32u * 24u;
}

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let at = group + b * 24u;
    return Block(
        array(
            fetch(matrix, at + lane), fetch(matrix, at + 4u + lane), fetch(matrix, at + 8u + lane), fetch(matrix, at + 12u + lane)
        ),
        fetch(matrix, at + 16u + lane),
        fetch_halves(matrix, at + 20u, lane),
        fetch_halves(matrix, at + 22u, lane)
    );
}

#include "five_bits.wgsl"

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    let scaled = fma(block.scale * scale, vec4f(low + high), acc);
    return fma(block.least * scale, vec4f(f32(low_sum + high_sum)), scaled);
}
