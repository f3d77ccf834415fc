// attention_merge: the chunks of positions that attention.wgsl has summed, put together for each row and head.
//
// Bindings   1 rows of (absolute position, first entry in `pages`)   2 partials (attention.wgsl)   3 out [rows][heads][value_dim] f32
// Dispatch   one workgroup of 64 for each (row, head), folded over y (launches/launch.ts, grid)
// Numerics   the exact maximum of all chunks first; then sums over chunks in order, each scaled by exp(its maximum - the maximum).

struct Params {
    first_row: u32,
    end_row: u32,
    heads: u32,
    value_dim: u32,
    chunks: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> partials: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

#include "math.wgsl"

const CHUNK = 256u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let pair = group.x + group.y * groups.x;    // row · heads + head, from first_row on
    let pairs = (params.end_row - params.first_row) * params.heads;
    if (pair >= pairs) {
        return;
    }
    let chunks = rows[params.first_row + pair / params.heads].x / CHUNK + 1u;
    let values = pair * params.chunks * params.value_dim;
    let scores = pairs * params.chunks * params.value_dim + 2u * pair * params.chunks;
    var most = partials[scores];
    for (var chunk = 1u; chunk < chunks; chunk++) {
        most = max(most, partials[scores + 2u * chunk]);
    }
    for (var element = lane; element < params.value_dim; element += 64u) {
        var total = 0.0;
        var sum = 0.0;
        for (var chunk = 0u; chunk < chunks; chunk++) {
            let factor = exp_of(partials[scores + 2u * chunk] - most);
            total = fma(factor, partials[scores + 2u * chunk + 1u], total);
            sum = fma(factor, partials[values + chunk * params.value_dim + element], sum);
        }
        out[(params.first_row * params.heads + pair) * params.value_dim + element] = sum / total;
    }
}
