// The integer mix that orders what scores leave equal: the words of csrc/core/tie_hash.h.

fn mix32(word: u32) -> u32 {
    var x = word;
    x ^= x >> 16u;
    x *= 0x7feb352du;
    x ^= x >> 15u;
    x *= 0x846ca68bu;
    x ^= x >> 16u;
    return x;
}

fn tie_hash(seed: vec4<u32>, layer: u32, position: u32, index: u32) -> u32 {
    var h = 0x9e3779b9u;
    h = mix32(h ^ seed.x) + 0x9e3779b9u;
    h = mix32(h ^ seed.y) + 0x9e3779b9u;
    h = mix32(h ^ seed.z) + 0x9e3779b9u;
    h = mix32(h ^ seed.w) + 0x9e3779b9u;
    h = mix32(h ^ layer) + 0x9e3779b9u;
    h = mix32(h ^ position) + 0x9e3779b9u;
    return mix32(h ^ index) + 0x9e3779b9u;
}
