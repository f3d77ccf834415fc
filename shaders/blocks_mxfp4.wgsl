// blocks_mxfp4: MXFP4 in the kernels' layout (csrc/quant/repack.h). Per block of 32 columns × 16 rows 17 quads (of 16 bytes): 16 of codes
// (nibbles as Q4_0), then 1 of E8M0 scales, a byte a row. A code is E2M1; values are doubled, so that they are whole numbers.

const word_offset = 12;

struct Block {
    n: array<vec4u, 4>,
    scale: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 32u * 17u;
}

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let at = group + b * 17u;
    let e = unsigned_bytes(fetch_word(matrix, at + 16u, lane));
    return Block(
        array(
            fetch(matrix, at + lane), fetch(matrix, at + 4u + lane), fetch(matrix, at + 8u + lane), fetch(matrix, at + 12u + lane)
        ),
        bitcast<vec4f>(select((e - vec4(1u)) << vec4(23u), vec4(0x00200000u) << e, e < vec4(2u)))  // 2^(e − 128)
    );
}

/** Columns 4g … 4g + 3 of four rows, a byte each: 12 + the doubled value, which is ±(0 1 2 3 4 6 8 12). No byte carries into the next. */
fn block_words(block: Block, g: u32) -> vec4u {
    let codes = select(block.n[g % 4u], block.n[g % 4u] >> vec4(4u), g >= 4u);
    let c = codes & vec4(0x07070707u);
    let high = (c >> vec4(2u)) & vec4(0x01010101u);
    let both = (c >> vec4(1u)) & high;
    let magnitude = c + (c & (high * 3u)) + ((c & both) << vec4(1u));
    let negative = ((codes >> vec4(3u)) & vec4(0x01010101u)) * 255u;
    return vec4(0x0c0c0c0cu) + (magnitude & ~negative) - (magnitude & negative);
}

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    return fma(block.scale * scale, vec4f(low + high - vec4(word_offset * (low_sum + high_sum))), acc);
}
