// silu_mul: out = silu(gate) ∘ up, for experts whose gate and up differ in type or have biases (expert_matmul.wgsl does it by itself otherwise);
// with CLAMPED the clamped activation of csrc/cpu/expert_matmul.h.
// Bindings: 0 params · 1 gate f32 [count] · 2 up f32 [count] · 3 out f32 [count]. Defines: CLAMPED. Dispatch: 64 a workgroup, folded over x and y.
// Numerical notes: silu as math.wgsl.

#include "math.wgsl"

struct Params {
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
    let at = (group.x + group.y * groups.x) * 64u + invocation;
    if (at < params.count) {
#if CLAMPED
        let g = min(gate[at], 7.0);
        let value = g / (1.0 + exp_of(-1.702 * g)) * (clamp(up[at], -7.0, 7.0) + 1.0);
        // A minimum may drop what is not finite; the sum keeps it.
        out[at] = select(gate[at] + up[at], value, is_finite(gate[at]) && is_finite(up[at]));
#else
        out[at] = silu(gate[at]) * up[at];
#endif
    }
}
