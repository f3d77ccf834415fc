// attention_merge: the chunks of positions that attention.wgsl has summed, put together for each row and head.
//
// Bindings   1 rows of (absolute position, first entry in `pages`)   2 partials (attention.wgsl)   3 out [rows][heads][value_dim] f32
//            QUANTISE: 4 blocks out, as quantise.wgsl writes them of `out`   5 status, as there
// Defines    QUANTISE: heads · value_dim is a multiple of 32
// Dispatch   one workgroup for each 64 numbers of a row, folded over y (launches/launch.ts, grid)
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
#if QUANTISE
@group(0) @binding(4) var<storage, read_write> blocks: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> status: array<atomic<u32>>;
#endif

#include "math.wgsl"
#if QUANTISE
#include "quantise_block.wgsl"

var<workgroup> merged_row: array<f32, 64>;
#endif

const CHUNK = 256u;

/** Element of a row and head; pair = row · heads + head, from first_row on. */
fn merged(pair: u32, element: u32) -> f32 {
    let pairs = (params.end_row - params.first_row) * params.heads;
    let chunks = rows[params.first_row + pair / params.heads].x / CHUNK + 1u;
    let values = pair * params.chunks * params.value_dim;
    let scores = pairs * params.chunks * params.value_dim + 2u * pair * params.chunks;
    var most = partials[scores];
    for (var chunk = 1u; chunk < chunks; chunk++) {
        most = max(most, partials[scores + 2u * chunk]);
    }
    var total = 0.0;
    var sum = 0.0;
    for (var chunk = 0u; chunk < chunks; chunk++) {
        let factor = exp_of(partials[scores + 2u * chunk] - most);
        total = fma(factor, partials[scores + 2u * chunk + 1u], total);
        sum = fma(factor, partials[values + chunk * params.value_dim + element], sum);
    }
    return sum / total;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let columns = params.heads * params.value_dim;
    let parts = (columns + 63u) / 64u;
    let at = group.x + group.y * groups.x;
    let row = at / parts;    // from first_row on
    let column = at % parts * 64u + lane;
    if (row >= params.end_row - params.first_row) {
        return;
    }
    var value = 0.0;
    if (column < columns) {
        value = merged(row * params.heads + column / params.value_dim, column % params.value_dim);
        out[(params.first_row + row) * columns + column] = value;
    }
#if QUANTISE
    merged_row[lane] = value;
    workgroupBarrier();
    if (lane % 32u == 0u && column < columns) {
        var values: array<vec4<f32>, 8>;
        for (var g = 0u; g < 8u; g++) {
            let i = lane + 4u * g;
            values[g] = vec4(merged_row[i], merged_row[i + 1u], merged_row[i + 2u], merged_row[i + 3u]);
        }
        let block = quantise_block(&values);
        if (!block.finite) {
            atomicMin(&status[0], params.first_row + row);
        }
        let to = ((params.first_row + row) * columns + column) / 32u * 3u;
        blocks[to] = block.low;
        blocks[to + 1u] = block.high;
        blocks[to + 2u] = block.rest;
    }
#endif
}
