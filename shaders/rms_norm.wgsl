// rms_norm: out = x / √(mean(x²) + epsilon) · weight, one row per workgroup (csrc/cpu/rms_norm.h).
// Bindings: 0 params · 1 x [rows][width] f32 · 2 weight [width] f32 · 3 out [rows][width] f32 · 4 status.
// Defines: none. Dispatch: one workgroup a row, folded over x and y.
// Numerical notes: lane = index mod 16, one fma chain per lane, then the tree 8-4-2-1; √ and ÷ are the device's (WGSL: 2.5 ulp).
// A row without a finite sum of squares is reported in status[0] and its output means nothing.

struct Params {
    rows: u32,
    width: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> status: array<atomic<u32>>;

var<workgroup> lanes: array<f32, 16>;

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * groups.x;
    if (row >= params.rows) {
        return;
    }
    let first = row * params.width;
    var sum = 0.0;
    for (var i = lane; i < params.width; i += 16u) {
        let value = x[first + i];
        sum = fma(value, value, sum);
    }
    lanes[lane] = sum;
    workgroupBarrier();
    for (var span = 8u; span > 0u; span /= 2u) {
        if (lane < span) {
            lanes[lane] += lanes[lane + span];
        }
        workgroupBarrier();
    }
    let total = lanes[0];
    if (lane == 0u && (bitcast<u32>(total) & 0x7f800000u) == 0x7f800000u) {
        atomicMin(&status[0], row);
    }
    let scale = 1.0 / sqrt(total / f32(params.width) + params.epsilon);
    for (var i = lane; i < params.width; i += 16u) {
        out[first + i] = x[first + i] * scale * weight[i];
    }
}
