// quantise: rows of f32 to int8 per block of 32 columns (csrc/cpu/quantise_simd.h), as tile.wgsl reads them.
// Bindings: 0 params · 1 x f32 [rows][stride] · 2 out u32 [rows][columns / 32][12]: 8 words of int8, the scale (f32), the sums of columns 0 to 15
// and 16 to 31 (i32), 0 · 3 status · with DISPATCHED 4 slots u32 [rows], from dispatch.
// Defines: DISPATCHED (rows are dispatched ones: a row's token is slots[row] / k). Dispatch: 64 blocks a workgroup, folded over x and y.
// Numerical notes: amax by bits, id = 127 / amax, round to nearest even, scale = amax / 127; a block below 2^-119 is zero. Where ÷ is not
// correctly rounded a value next to a rounding edge may be one step off. The lowest token with a value that is not finite is reported in status[0].

#include "bytes.wgsl"

struct Params {
    rows: u32,
    columns: u32,
    stride: u32,
    k: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>;
#if DISPATCHED
@group(0) @binding(4) var<storage, read> slots: array<u32>;
#endif

const finite_limit = 0x7f800000u;
const tiny_limit = 0x04000000u;  // 2^-119

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
    let blocks = params.columns / 32u;
    let index = (group.x + group.y * groups.x) * 64u + invocation;
    if (index >= params.rows * blocks) {
        return;
    }
    let row = index / blocks;
    let first = (row * params.stride + index % blocks * 32u) / 4u;
    var values: array<vec4f, 8>;
    var most = vec4u();
    for (var g = 0u; g < 8u; g++) {
        values[g] = x[first + g];
        most = max(most, bitcast<vec4u>(values[g]) & vec4(0x7fffffffu));
    }
    let bits = max(max(most.x, most.y), max(most.z, most.w));
    if (bits >= finite_limit) {
#if DISPATCHED
        atomicMin(&status[0], slots[row] / params.k);
#else
        atomicMin(&status[0], row);
#endif
    }
    let zero = bits < tiny_limit || bits >= finite_limit;
    let largest = bitcast<f32>(select(bits, 0x3f800000u, zero));
    let inverse = 127.0 / largest;
    var packed: array<u32, 8>;
    var sums = vec2i();
    for (var g = 0u; g < 8u; g++) {
        let q = select(vec4i(round(values[g] * inverse)), vec4i(), zero);
        packed[g] = pack_bytes(q);
        sums[g / 4u] += q.x + q.y + q.z + q.w;
    }
    out[index * 3u] = vec4(packed[0], packed[1], packed[2], packed[3]);
    out[index * 3u + 1u] = vec4(packed[4], packed[5], packed[6], packed[7]);
    out[index * 3u + 2u] = vec4(select(bitcast<u32>(largest / 127.0), 0u, zero), bitcast<vec2u>(sums), 0u);
}
