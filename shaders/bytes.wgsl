// bytes: four signed bytes of a word, without the packed_4x8_integer_dot_product language feature.

fn signed_bytes(word: u32) -> vec4i {
    return bitcast<vec4i>(vec4(word) << vec4(24u, 16u, 8u, 0u)) >> vec4(24u);
}

fn unsigned_bytes(word: u32) -> vec4u {
    return (vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu);
}

fn pack_bytes(q: vec4i) -> u32 {
    let b = bitcast<vec4u>(q) & vec4(0xffu);
    return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}
