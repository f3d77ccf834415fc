// head_parts: takes heads apart for head_matmul: what is multiplied side by side, and what follows the product to where it belongs.
//
// Bindings   1 x [rows][columns + carried] f32   2 out [rows][to + carried] f32   3 parts out [rows][columns] f32. A row is a head of a token.
// Dispatch   one invocation for each float of x, workgroups of 64, folded over y (launches/launch.ts, grid)
// Numerics   copies: no arithmetic

struct Params {
    count: u32,
    columns: u32,
    carried: u32,
    to: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> parts: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * groups.x) * 64u + lane;
    if (at >= params.count) {
        return;
    }
    let whole = params.columns + params.carried;
    let row = at / whole;
    let i = at % whole;
    if (i < params.columns) {
        parts[row * params.columns + i] = x[at];
    } else {
        out[row * (params.to + params.carried) + params.to + i - params.columns] = x[at];
    }
}
