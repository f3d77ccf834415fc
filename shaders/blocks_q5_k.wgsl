// blocks_q5_k: Q5_K in the kernels' layout (csrc/quant/repack.h). Per 256 columns × 16 rows 176 quads (of 16 bytes): 8 blocks of 32 columns,
// each 16 quads of nibbles and 4 of high bits (as Q5_0); then as Q4_K.

struct Block {
    n: array<vec4u, 4>,
    high: vec4u,
    sub_scale: vec4i,
    sub_min: vec4i,
    scale: vec4f,
    least: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 256u * 176u;
}

#include "six_bits.wgsl"

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let big = group + b / 8u * 176u;
    let at = big + b % 8u * 20u + lane;
    let sub = sub_scales(matrix, big + 164u, lane, b % 8u);
    return Block(
        array(fetch(matrix, at), fetch(matrix, at + 4u), fetch(matrix, at + 8u), fetch(matrix, at + 12u)),
        fetch(matrix, at + 16u),
        sub[0],
        sub[1],
        fetch_halves(matrix, big + 160u, lane),
        fetch_halves(matrix, big + 162u, lane)
    );
}

#include "five_bits.wgsl"

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    let scaled = fma(block.scale * scale, vec4f(block.sub_scale * (low + high)), acc);
    return fma(block.least * scale, vec4f(block.sub_min * -(low_sum + high_sum)), scaled);
}
