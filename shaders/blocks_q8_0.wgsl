// blocks_q8_0: Q8_0 in the kernels' layout (csrc/quant/repack.h). Per block of 32 columns × 16 rows 34 quads (of 16 bytes): 32 of bytes
// q + 128 (quad 4g + lane: rows 4·lane …, columns 4g …), then 2 of f16 scales.

struct Block {
    n: array<vec4u, 8>,
    scale: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 32u * 34u;
}

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let at = group + b * 34u + lane;
    return Block(
        array(
            fetch(matrix, at), fetch(matrix, at + 4u), fetch(matrix, at + 8u), fetch(matrix, at + 12u),
            fetch(matrix, at + 16u), fetch(matrix, at + 20u), fetch(matrix, at + 24u), fetch(matrix, at + 28u)
        ),
        fetch_halves(matrix, group + b * 34u + 32u, lane)
    );
}

/** Columns 4g … 4g + 3 of four rows, a signed byte each. */
fn block_words(block: Block, g: u32) -> vec4u {
    return block.n[g] ^ vec4(0x80808080u);
}

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    return fma(block.scale * scale, vec4f(low + high), acc);
}
