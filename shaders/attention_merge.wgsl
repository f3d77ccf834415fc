// attention_merge: the chunks of positions that attention.wgsl has summed, put together for each row and head.
//
// Bindings   1 rows of (absolute position, first entry in `pages`)   2 partials (attention.wgsl)   3 out [rows][heads][value_dim] f32
//            QUANTISE: 4 blocks out, as quantise.wgsl writes them of `out`   5 status, as there   SINKS: last, sinks [heads] f32
// Defines    QUANTISE: heads · value_dim is a multiple of 32
// Dispatch   one workgroup for each 64 numbers of a row, folded over y (launches/launch.ts, grid)
// Numerics   the exact maximum of all chunks and the sink first; then sums over chunks in order, each scaled by exp(its maximum - the maximum);
//            the sink last.

struct Params {
    first_row: u32,
    end_row: u32,
    heads: u32,
    value_dim: u32,
    chunks: u32,
    window: u32,    // as attention.wgsl
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> partials: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
#if QUANTISE
@group(0) @binding(4) var<storage, read_write> blocks: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> status: array<atomic<u32>>;
#if SINKS
@group(0) @binding(6) var<storage, read> sinks: array<f32>;
#endif
#elif SINKS
@group(0) @binding(4) var<storage, read> sinks: array<f32>;
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
    let position = rows[params.first_row + pair / params.heads].x;
    let chunks = position / CHUNK + 1u;
    // What is before the window was not computed.
    let first = select(0u, (position + 1u - min(position + 1u, params.window)) / CHUNK, params.window > 0u);
    let values = pair * params.chunks * params.value_dim;
    let scores = pairs * params.chunks * params.value_dim + 2u * pair * params.chunks;
    var most = partials[scores + 2u * first];
    for (var chunk = first + 1u; chunk < chunks; chunk++) {
        most = max(most, partials[scores + 2u * chunk]);
    }
#if SINKS
    let sink = sinks[pair % params.heads];
    most = max(most, sink);
#endif
    var total = 0.0;
    var sum = 0.0;
    for (var chunk = first; chunk < chunks; chunk++) {
        let factor = exp_of(partials[scores + 2u * chunk] - most);
        total = fma(factor, partials[scores + 2u * chunk + 1u], total);
        sum = fma(factor, partials[values + chunk * params.value_dim + element], sum);
    }
#if SINKS
    total += exp_of(sink - most);
#endif
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
