// Whether a router's numbers have at most 24 bits, so that sums of their products are exact (kernel level; a model's routers come from packRouter).
//
// bindings   1 router [count] · 2 status: [1] lowest index of a number beyond ±2^23
// dispatch   64 invocations of 16 numbers each, folded into x and y
struct Params {
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> router: array<i32>;
@group(0) @binding(2) var<storage, read_write> status: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = (group.x + group.y * groups.x) * 1024u + lane;
    for (var i = first; i < min(first + 1024u, params.count); i += 64u) {
        if (router[i] > 0x800000 || router[i] < -0x800000) { atomicMin(&status[1], i); }
    }
}
