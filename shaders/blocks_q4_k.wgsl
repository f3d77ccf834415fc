// blocks_q4_k: Q4_K in the kernels' layout (csrc/quant/repack.h). Per 256 columns × 16 rows 144 quads (of 16 bytes): 8 blocks of 32 columns,
// each 16 quads of nibbles (as Q4_0); then 2 quads of f16 d, 2 of f16 dmin, and 4 each of the file's scale words 0, 1 and 2
// (quad lane: rows 4·lane …), which hold 6 bits of scale and of min for each block.

struct Block {
    n: array<vec4u, 4>,
    sub_scale: vec4i,
    sub_min: vec4i,
    scale: vec4f,
    least: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 256u * 144u;
}

#include "six_bits.wgsl"

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let big = group + b / 8u * 144u;
    let at = big + b % 8u * 16u + lane;
    let sub = sub_scales(matrix, big + 132u, lane, b % 8u);
    return Block(
        array(fetch(matrix, at), fetch(matrix, at + 4u), fetch(matrix, at + 8u), fetch(matrix, at + 12u)),
        sub[0],
        sub[1],
        fetch_halves(matrix, big + 128u, lane),
        fetch_halves(matrix, big + 130u, lane)
    );
}

/** Columns 4g … 4g + 3 of four rows, a byte each, 0 to 15. */
fn block_words(block: Block, g: u32) -> vec4u {
    return select(block.n[g % 4u], block.n[g % 4u] >> vec4(4u), g >= 4u) & vec4(0x0f0f0f0fu);
}

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    let scaled = fma(block.scale * scale, vec4f(block.sub_scale * (low + high)), acc);
    return fma(block.least * scale, vec4f(block.sub_min * -(low_sum + high_sum)), scaled);
}
