// combine: each token's weighted sum of its experts' rows, in ascending expert id (csrc/cpu/dispatch.h).
//
// bindings   1 values [tokens · k][width] in row order · 2 ids [tokens][k] · 3 weights [tokens][k] · 4 rows [tokens · k], from dispatch
//            5 out [tokens][width] · 6 status: [1] lowest slot whose id is no expert or stands before it in its token, [2] lowest slot whose row does not exist
// dispatch   64 invocations; one workgroup for 256 columns of one token: tokens · blocks workgroups, folded into x and y
// numbers    one fma per slot, beginning from 0; `add` adds the sum to what `out` holds.
struct Params {
    tokens: u32,
    k: u32,
    width: u32,
    blocks: u32,   // ceil(width / 256)
    experts: u32,
    add: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read> rows: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> status: array<atomic<u32>>;

const lanes = 64u;

var<workgroup> row_of: array<u32, 256>;      // by ascending expert id
var<workgroup> weight_of: array<f32, 256>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.x + group.y * groups.x;
    let token = at / params.blocks;
    let begin = at % params.blocks * 256u;
    if (token >= params.tokens) { return; }

    let first = token * params.k;
    for (var s = lane; s < params.k; s += lanes) {
        let id = ids[first + s];
        var place = 0u;
        var twice = false;
        for (var i = 0u; i < params.k; i++) {
            let other = ids[first + i];
            place += select(0u, 1u, other < id || (other == id && i < s));
            twice = twice || (other == id && i < s);
        }
        let row = rows[first + s];
        if (id >= params.experts || twice) { atomicMin(&status[1], first + s); }
        if (row >= params.tokens * params.k) { atomicMin(&status[2], first + s); }
        row_of[place] = min(row, params.tokens * params.k - 1u);
        weight_of[place] = weights[first + s];
    }
    workgroupBarrier();
    for (var c = begin + lane; c < min(begin + 256u, params.width); c += lanes) {
        var sum = 0.0;
        for (var s = 0u; s < params.k; s++) { sum = fma(weight_of[s], values[row_of[s] * params.width + c], sum); }
        let to = token * params.width + c;
        if (params.add != 0u) { sum = out[to] + sum; }
        out[to] = sum;
    }
}
