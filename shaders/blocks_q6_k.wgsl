// blocks_q6_k: Q6_K in the kernels' layout (csrc/quant/repack.h). Per 256 columns × 16 rows 210 quads (of 16 bytes): 8 blocks of 32 columns,
// each 16 quads of low nibbles (as Q4_0), 8 of high bits (quad 4h + lane, bits 2f and 2f + 1 of a byte: column group 4h + f), 1 of int8
// sub-scales of columns 0 to 15, 1 of 16 to 31; then 2 quads of f16 scales.

const word_offset = 32;

struct Block {
    n: array<vec4u, 4>,
    high: array<vec4u, 2>,
    low_scale: vec4i,
    high_scale: vec4i,
    scale: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 256u * 210u;
}

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let big = group + b / 8u * 210u;
    let at = big + b % 8u * 26u;
    return Block(
        array(
            fetch(matrix, at + lane), fetch(matrix, at + 4u + lane), fetch(matrix, at + 8u + lane), fetch(matrix, at + 12u + lane)
        ),
        array(fetch(matrix, at + 16u + lane), fetch(matrix, at + 20u + lane)),
        signed_bytes(fetch_word(matrix, at + 24u, lane)),
        signed_bytes(fetch_word(matrix, at + 25u, lane)),
        fetch_halves(matrix, big + 208u, lane)
    );
}

/** Columns 4g … 4g + 3 of four rows, a byte each, 0 to 63. */
fn block_words(block: Block, g: u32) -> vec4u {
    let four = select(block.n[g % 4u], block.n[g % 4u] >> vec4(4u), g >= 4u) & vec4(0x0f0f0f0fu);
    let two = (block.high[g / 4u] >> vec4(2u * (g % 4u))) & vec4(0x03030303u);
    return four | (two << vec4(4u));
}

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    let sum = block.low_scale * (low - vec4(word_offset * low_sum)) + block.high_scale * (high - vec4(word_offset * high_sum));
    return fma(block.scale * scale, vec4f(sum), acc);
}
