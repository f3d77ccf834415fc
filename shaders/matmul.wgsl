// matmul: out[token][first + row] (+)= W · a[token], W packed (csrc/quant/repack.h). Also logits.
// Bindings: 0 params · 1 weights u32 (quads) · 2 activations: f32 [tokens][columns] for float weights, blocks of quantise.wgsl for quantised ones ·
// 3 out f32 [tokens][stride] · with COUNT_LOADS 4 loads.
// Defines: TYPE and those of tile.wgsl (MATRICES 1), GROUP (invocations of a workgroup), ADD. Dispatch: x over 4 · GROUP rows each, y over TOKENS
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

@compute @workgroup_size($GROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) invocation: u32) {
    let four = group.x * $GROUP + invocation;
    let most = (params.rows - 1u) / 4u;
    let held = min(four, most);  // invocations past the end compute the last rows and write nothing
    let token = group.y * tile_tokens;
    var rows: array<u32, tile_tokens>;
    for (var t = 0u; t < tile_tokens; t++) {
        rows[t] = min(token + t, params.tokens - 1u);
    }
    let groups = array(params.base + held / 4u * row_group(params.columns));
    let acc = tile(groups, held % 4u, invocation, rows, params.columns);
    if (four > most) {
        return;
    }
    for (var t = 0u; t < tile_tokens; t++) {
        if (token + t < params.tokens) {
            for (var i = 0u; i < 4u; i++) {
                let row = four * 4u + i;
                if (row < params.rows) {
                    let at = (token + t) * params.stride + params.first + row;
#if ADD
                    out[at] += acc[t][i];
#else
                    out[at] = acc[t][i];
#endif
                }
            }
        }
    }
}
