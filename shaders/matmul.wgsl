// matmul: out[token][first + row] (+)= W · a[token], W packed (csrc/quant/repack.h). Also logits.
// Bindings: 0 params · 1 weights u32 (quads) · 2 activations: f32 [tokens][columns] for float weights, blocks of quantise.wgsl for quantised ones ·
// 3 out f32 [tokens][stride] · with COUNT_LOADS 4 loads.
// Defines: those of tile.wgsl (MATRICES 1), ADD. Dispatch: x over 4 · GROUP rows each, y over TOKENS
// tokens each. Numerical notes: tile.wgsl.

#if BROADCAST
enable subgroups;
#endif
#if F16
enable f16;
#endif

struct Params {
    rows: u32,
    columns: u32,
    tokens: u32,
    base: u32,      // the matrix in its binding, in quads
    stride: u32,
    first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights0: array<vec4u>;
#if !QUANTISED
@group(0) @binding(2) var<storage, read> activations: array<f32>;
#elif BROADCAST
@group(0) @binding(2) var<storage, read> activations: array<u32>;
#else
@group(0) @binding(2) var<storage, read> activations: array<vec4u>;
#endif
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
#if COUNT_LOADS
@group(0) @binding(4) var<storage, read_write> loads: atomic<u32>;
#endif

#include "tile.wgsl"

fn store(token: u32, first: u32, values: vec4f) {
    if (token < params.tokens) {
        for (var i = 0u; i < 4u; i++) {
            if (first + i < params.rows) {
                let at = token * params.stride + params.first + first + i;
#if ADD
                out[at] += values[i];
#else
                out[at] = values[i];
#endif
            }
        }
    }
}

@compute @workgroup_size($GROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) invocation: u32) {
    let four = group.x * $GROUP + invocation;
    let most = (params.rows - 1u) / 4u;
    let held = min(four, most);  // invocations past the end compute the last rows and write nothing
    let token = group.y * tile_tokens;
    var rows: Rows;
    rows.t0 = min(token + 0u, params.tokens - 1u);
#if TOKENS != 1
    rows.t1 = min(token + 1u, params.tokens - 1u);
    rows.t2 = min(token + 2u, params.tokens - 1u);
    rows.t3 = min(token + 3u, params.tokens - 1u);
#if TOKENS != 4
    rows.t4 = min(token + 4u, params.tokens - 1u);
    rows.t5 = min(token + 5u, params.tokens - 1u);
    rows.t6 = min(token + 6u, params.tokens - 1u);
    rows.t7 = min(token + 7u, params.tokens - 1u);
#endif
#endif
    let groups = array(params.base + held / 4u * row_group(params.columns));
    let acc = tile(groups, held % 4u, invocation, rows, params.columns);
    if (four > most) {
        return;
    }
    store(token + 0u, four * 4u, acc[0].t0);
#if TOKENS != 1
    store(token + 1u, four * 4u, acc[0].t1);
    store(token + 2u, four * 4u, acc[0].t2);
    store(token + 3u, four * 4u, acc[0].t3);
#if TOKENS != 4
    store(token + 4u, four * 4u, acc[0].t4);
    store(token + 5u, four * 4u, acc[0].t5);
    store(token + 6u, four * 4u, acc[0].t6);
    store(token + 7u, four * 4u, acc[0].t7);
#endif
#endif
}
