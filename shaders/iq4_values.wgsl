// iq4_values: block_words of IQ4_NL and IQ4_XS, whose codes stand for the numbers of iq4 (csrc/quant/blocks.h).

/** `one` in the bytes where the mask is 255, `zero` where it is 0. */
fn pick(mask: vec4u, zero: vec4u, one: vec4u) -> vec4u {
    return zero ^ ((zero ^ one) & mask);
}

/** The same of two values for all bytes. */
fn pick_byte(mask: vec4u, zero: u32, one: u32) -> vec4u {
    return pick(mask, vec4(zero * 0x01010101u), vec4(one * 0x01010101u));
}

/** Columns 4g … 4g + 3 of four rows, a signed byte each: a choice by each bit of the codes. */
fn block_words(block: Block, g: u32) -> vec4u {
    let codes = select(block.n[g % 4u], block.n[g % 4u] >> vec4(4u), g >= 4u);
    let m0 = (codes & vec4(0x01010101u)) * 255u;
    let m1 = ((codes >> vec4(1u)) & vec4(0x01010101u)) * 255u;
    let m2 = ((codes >> vec4(2u)) & vec4(0x01010101u)) * 255u;
    let m3 = ((codes >> vec4(3u)) & vec4(0x01010101u)) * 255u;
    let v0 = pick(m1, pick_byte(m0, 0x81u, 0x98u), pick_byte(m0, 0xadu, 0xbfu));  // -127 -104 -83 -65
    let v1 = pick(m1, pick_byte(m0, 0xcfu, 0xddu), pick_byte(m0, 0xeau, 0xf6u));  // -49 -35 -22 -10
    let v2 = pick(m1, pick_byte(m0, 1u, 13u), pick_byte(m0, 25u, 38u));
    let v3 = pick(m1, pick_byte(m0, 53u, 69u), pick_byte(m0, 89u, 113u));
    return pick(m3, pick(m2, v0, v1), pick(m2, v2, v3));
}
