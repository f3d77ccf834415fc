// five_bits: block_words of the types whose `Block` has nibbles `n` and high bits `high` (blocks_q5_*.wgsl).

/** Columns 4g … 4g + 3 of four rows, a byte each, 0 to 31. */
fn block_words(block: Block, g: u32) -> vec4u {
    let four = select(block.n[g % 4u], block.n[g % 4u] >> vec4(4u), g >= 4u) & vec4(0x0f0f0f0fu);
    return four | (((block.high >> vec4(g)) & vec4(0x01010101u)) << vec4(4u));
}
