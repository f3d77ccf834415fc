// quantise: rows of f32 to int8 per block of 32 columns (csrc/cpu/quantise_simd.h), as tile.wgsl reads them.
// Bindings: 0 params · 1 x f32 [rows][stride] · 2 out u32 [rows][columns / 32][12]: 8 words of int8, the scale (f32), the sums of columns 0 to 15
// and 16 to 31 (i32), 0 · 3 status · with DISPATCHED 4 slots u32 [rows], from dispatch.
// Defines: DISPATCHED (rows are dispatched ones: a row's token is slots[row] / k). Dispatch: 64 blocks a workgroup, folded over x and y.
// Numerical notes: amax by bits, id = 127 / amax, round to nearest even, scale = amax / 127; a block below 2^-119 is zero. Where ÷ is not
// correctly rounded a value next to a rounding edge may be one step off. The lowest token with a value that is not finite is reported in status[0].

#include "quantise_block.wgsl"

struct Params {
    rows: u32,
    columns: u32,
    stride: u32,
    k: u32,         // rows of one token
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>;
#if DISPATCHED
@group(0) @binding(4) var<storage, read> slots: array<u32>;
#endif

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
    for (var g = 0u; g < 8u; g++) {
        values[g] = x[first + g];
    }
    let block = quantise_block(&values);
    if (!block.finite) {
#if DISPATCHED
        atomicMin(&status[0], slots[row] / params.k);
#else
        atomicMin(&status[0], row / params.k);
#endif
    }
    out[index * 3u] = block.low;
    out[index * 3u + 1u] = block.high;
    out[index * 3u + 2u] = block.rest;
}
