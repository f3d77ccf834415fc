// blocks_iq4_xs: IQ4_XS in the kernels' layout (csrc/quant/repack.h). Per 256 columns × 16 rows 136 quads (of 16 bytes): 8 blocks of 32 columns,
// each 16 quads of nibbles (as Q4_0); then 2 quads of f16 scales, 2 of the high and 4 of the low bits of sub-scales (two and four bytes a row).

struct Block {
    n: array<vec4u, 4>,
    sub_scale: vec4i,
    scale: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 256u * 136u;
}

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let big = group + b / 8u * 136u;
    let at = big + b % 8u * 16u + lane;
    let pair = fetch_pair(matrix, big + 130u, lane);
    let two = (vec4(pair.x, pair.x >> 16u, pair.y, pair.y >> 16u) >> vec4(2u * (b % 8u))) & vec4(3u);
    let four = (fetch(matrix, big + 132u + lane) >> vec4(4u * (b % 8u))) & vec4(15u);
    return Block(
        array(fetch(matrix, at), fetch(matrix, at + 4u), fetch(matrix, at + 8u), fetch(matrix, at + 12u)),
        vec4i(four | (two << vec4(4u))) - vec4(32),
        fetch_halves(matrix, big + 128u, lane)
    );
}

#include "iq4_values.wgsl"

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    return fma(block.scale * scale, vec4f(block.sub_scale * (low + high)), acc);
}
