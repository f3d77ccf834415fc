// blocks_q5_0: Q5_0 in the kernels' layout (csrc/quant/repack.h). Per block of 32 columns × 16 rows 22 quads (of 16 bytes): 16 of nibbles (as
// Q4_0), 4 of high bits (quad lane; bit g of byte c: column 4g + c), then 2 of f16 scales.

const word_offset = 16;

struct Block {
    n: array<vec4u, 4>,
    high: vec4u,
    scale: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 32u * 22u;
}

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let at = group + b * 22u;
    return Block(
        array(
            fetch(matrix, at + lane), fetch(matrix, at + 4u + lane), fetch(matrix, at + 8u + lane), fetch(matrix, at + 12u + lane)
        ),
        fetch(matrix, at + 16u + lane),
        fetch_halves(matrix, at + 20u, lane)
    );
}

#include "five_bits.wgsl"

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    return fma(block.scale * scale, vec4f(low + high - vec4(word_offset * (low_sum + high_sum))), acc);
}
