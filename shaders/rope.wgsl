// rope: rotary embedding in place; pairs (i, i + rotary / 2), or (2i, 2i + 1) where `interleaved`.
//
// Bindings   1 x [rows][heads][head_dim] f32, read and written   2 table [rows][rotary / 2] of (cos, sin), made by the CPU's own functions
// Dispatch   one invocation for each pair, workgroups of 64, folded over y (launches/launch.ts, grid)
// Numerics   the CPU's products and fma: the same bits wherever fma is fused.

struct Params {
    pairs: u32,       // of all rows
    heads: u32,
    head_dim: u32,
    half: u32,        // pairs of one head
    interleaved: u32,
    offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let pair = (group.x + group.y * groups.x) * 64u + lane;
    if (pair >= params.pairs) {
        return;
    }
    let i = pair % params.half;
    let head = pair / params.half;
    let angle = table[head / params.heads * params.half + i];
    let start = head * params.head_dim + params.offset;
    let first = start + select(i, 2u * i, params.interleaved != 0u);
    let second = start + select(params.half + i, 2u * i + 1u, params.interleaved != 0u);
    let p = x[first];
    let q = x[second];
    x[first] = fma(p, angle.x, -(q * angle.y));
    x[second] = fma(q, angle.x, p * angle.y);
}
