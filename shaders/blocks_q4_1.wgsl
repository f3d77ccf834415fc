// blocks_q4_1: Q4_1 in the kernels' layout (csrc/quant/repack.h). Per block of 32 columns × 16 rows 20 quads (of 16 bytes): 16 of nibbles (as
// Q4_0), then 2 of f16 scales and 2 of f16 minimums.

struct Block {
    n: array<vec4u, 4>,
    scale: vec4f,
    least: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 32u * 20u;
}

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let at = group + b * 20u;
    return Block(
        array(
            fetch(matrix, at + lane), fetch(matrix, at + 4u + lane), fetch(matrix, at + 8u + lane), fetch(matrix, at + 12u + lane)
        ),
        fetch_halves(matrix, at + 16u, lane),
        fetch_halves(matrix, at + 18u, lane)
    );
}

/** Columns 4g … 4g + 3 of four rows, a byte each, 0 to 15. */
fn block_words(block: Block, g: u32) -> vec4u {
    return select(block.n[g % 4u], block.n[g % 4u] >> vec4(4u), g >= 4u) & vec4(0x0f0f0f0fu);
}

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    let scaled = fma(block.scale * scale, vec4f(low + high), acc);
    return fma(block.least * scale, vec4f(f32(low_sum + high_sum)), scaled);
}
