// scale: x *= by.
// Bindings: 0 params · 1 x f32 [count]. Defines: none. Dispatch: 64 a workgroup, folded over x and y. Numerical notes: the CPU's bits.

struct Params {
    count: u32,
    by: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
    let at = (group.x + group.y * groups.x) * 64u + invocation;
    if (at < params.count) {
        x[at] *= params.by;
    }
}
