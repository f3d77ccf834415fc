// nibbles: block_words of the types whose codes are the nibbles `n` of their `Block`, with FIVE_BITS and the high bits `high` (blocks_small.wgsl).

/** Columns 4g … 4g + 3 of four rows, a byte each. */
fn block_words(block: Block, g: u32) -> vec4u {
    let four = select(block.n[g % 4u], block.n[g % 4u] >> vec4(4u), g >= 4u) & vec4(0x0f0f0f0fu);
#if FIVE_BITS
    return four | (((block.high >> vec4(g)) & vec4(0x01010101u)) << vec4(4u));
#else
    return four;
#endif
}
