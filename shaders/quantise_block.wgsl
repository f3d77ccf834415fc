// quantise_block: 32 numbers as quantise.wgsl and rms_norm.wgsl write them (csrc/cpu/quantise_simd.h): int8 in eight words, then the scale (f32), the sums
// of the first and of the last 16 (i32), 0. One that is not finite makes a block of zeros that says so.

#include "bytes.wgsl"

const finite_limit = 0x7f800000u;
const tiny_limit = 0x04000000u;  // 2^-119

struct QuantisedBlock {
    low: vec4u,
    high: vec4u,
    rest: vec4u,
    finite: bool,
}

fn quantise_block(values: ptr<function, array<vec4f, 8>>) -> QuantisedBlock {
    var most = vec4u();
    for (var g = 0u; g < 8u; g++) {
        most = max(most, bitcast<vec4u>((*values)[g]) & vec4(0x7fffffffu));
    }
    let bits = max(max(most.x, most.y), max(most.z, most.w));
    let zero = bits < tiny_limit || bits >= finite_limit;
    let largest = bitcast<f32>(select(bits, 0x3f800000u, zero));
    let inverse = 127.0 / largest;
    var packed: array<u32, 8>;
    var sums = vec2i();
    for (var g = 0u; g < 8u; g++) {
        let q = select(vec4i(round((*values)[g] * inverse)), vec4i(), zero);
        packed[g] = pack_bytes(q);
        sums[g / 4u] += q.x + q.y + q.z + q.w;
    }
    return QuantisedBlock(
        vec4(packed[0], packed[1], packed[2], packed[3]), vec4(packed[4], packed[5], packed[6], packed[7]),
        vec4(select(bitcast<u32>(largest / 127.0), 0u, zero), bitcast<vec2u>(sums), 0u), bits < finite_limit
    );
}
