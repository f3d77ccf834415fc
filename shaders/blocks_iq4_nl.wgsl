// blocks_iq4_nl: IQ4_NL in the kernels' layout (csrc/quant/repack.h), which is that of Q4_0: per block of 32 columns × 16 rows 18 quads (of 16
// bytes), 16 of nibbles, then 2 of f16 scales.

struct Block {
    n: array<vec4u, 4>,
    scale: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 32u * 18u;
}

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let at = group + b * 18u;
    return Block(
        array(
            fetch(matrix, at + lane), fetch(matrix, at + 4u + lane), fetch(matrix, at + 8u + lane), fetch(matrix, at + 12u + lane)
        ),
        fetch_halves(matrix, at + 16u, lane)
    );
}

#include "iq4_values.wgsl"

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    return fma(block.scale * scale, vec4f(low + high), acc);
}
