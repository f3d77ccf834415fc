// rms_norm: each run of n floats divided by its root mean square, times the weight; n is a row's width or, per head, a part of it.
//
// Bindings   1 x [rows][width] f32   2 weight [n] f32   3 out, as x   4 status
//            IN_PLACE: 1 x is read and written   2 weight   3 status
//            QUANTISE: 5 blocks out, as quantise.wgsl writes them of `out`; n is a row's width, a multiple of 32
// Defines    IN_PLACE, QUANTISE (not both)
// Dispatch   one workgroup of 64 for each run, folded over y (launches/launch.ts, grid)
// Numerics   squares: lane = index mod 64, one fma chain each; then lanes l, l + 16, l + 32, l + 48 in order and the tree 8-4-2-1.
//            status takes the row where the sum of squares is not finite.

struct Params {
    runs: u32,
    n: u32,
    runs_in_row: u32,
    epsilon: f32,
    width: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
#if IN_PLACE
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>;
#else
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> status: array<atomic<u32>>;
#if QUANTISE
@group(0) @binding(5) var<storage, read_write> blocks: array<vec4u>;
#endif
#endif

#include "math.wgsl"
#include "rms.wgsl"
#if QUANTISE
#include "quantise_block.wgsl"
#endif

fn element(at: u32) -> f32 {
#if IN_PLACE
    return out[at];
#else
    return x[at];
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let run = group.x + group.y * groups.x;
    if (run >= params.runs) {
        return;
    }
    let first = run / params.runs_in_row * params.width + run % params.runs_in_row * params.n;
    var sum = 0.0;
    for (var i = lane; i < params.n; i += 64u) {
        let value = element(first + i);
        sum = fma(value, value, sum);
    }
    let total = sum_of_squares(lane, sum);
    if (lane == 0u && !is_finite(total)) {
        atomicMin(&status[0], run / params.runs_in_row);
    }
    let scale = 1.0 / sqrt(total / f32(params.n) + params.epsilon);
#if QUANTISE
    for (var b = lane; b < params.n / 32u; b += 64u) {
        var values: array<vec4f, 8>;
        for (var g = 0u; g < 8u; g++) {
            let i = b * 32u + g * 4u;
            let at = first + i;
            let four = vec4(x[at], x[at + 1u], x[at + 2u], x[at + 3u]) * scale * vec4(weight[i], weight[i + 1u], weight[i + 2u], weight[i + 3u]);
            out[at] = four.x;
            out[at + 1u] = four.y;
            out[at + 2u] = four.z;
            out[at + 3u] = four.w;
            values[g] = four;
        }
        let block = quantise_block(&values);
        if (!block.finite) {
            atomicMin(&status[0], run);
        }
        let to = (run * (params.n / 32u) + b) * 3u;
        blocks[to] = block.low;
        blocks[to + 1u] = block.high;
        blocks[to + 2u] = block.rest;
    }
#else
    for (var i = lane; i < params.n; i += 64u) {
        out[first + i] = element(first + i) * scale * weight[i];
    }
#endif
}
