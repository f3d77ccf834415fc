// gated: rows by the function of a gate, in place (csrc/cpu/gated.h).
//
// Bindings   1 x [rows][n] f32, read and written   2 gate [rows][n] f32, with BY_ROW [rows]   3 with BY_ROW: status
// Defines    BY_ROW: x = sigmoid(gate) · x, one gate a row (else x = silu(gate) ∘ x)
// Dispatch   one invocation for each float, workgroups of 64, folded over y (launches/launch.ts, grid)
// Numerics   math.wgsl. With BY_ROW status takes the row whose gate is not finite: a sigmoid would hide it.

#include "math.wgsl"

struct Params {
    count: u32,
    n: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> gate: array<f32>;
#if BY_ROW
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * groups.x) * 64u + lane;
    if (at >= params.count) {
        return;
    }
#if BY_ROW
    let row = at / params.n;
    let own = gate[row];
    if (at % params.n == 0u && !is_finite(own)) {
        atomicMin(&status[0], row);
    }
    x[at] = x[at] / (1.0 + exp_of(-own));
#else
    x[at] = silu(gate[at]) * x[at];
#endif
}
