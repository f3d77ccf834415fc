// matmul: out[token][first + row] (+)= W · a[token], W packed (csrc/quant/repack.h). Also logits.
// Bindings: 0 params · 1 weights u32 (quads) · 2 activations: f32 [tokens][columns] for float weights, blocks of quantise.wgsl for quantised ones ·
// 3 out f32 [tokens][stride] · with BIAS 4 bias f32 [rows of the whole matrix] · with COUNT_LOADS last: loads u32 [2].
// Defines: those of tile.wgsl (MATRICES 1, PARTS 1), ADD, BIAS (added once to each product), HEADS (head_matmul: a row of `activations` is a head
// of a token, and each head has a matrix of its own, one after another). Dispatch: x over 4 · GROUP rows each, y over TOKENS
// tokens each, with HEADS z over heads. Numerical notes: tile.wgsl.

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
    bias_first: u32,    // of the part's first row
#if HEADS
    heads: u32,
    head_quads: u32,     // of one head's matrix
    head_stride: u32,    // floats from one head's product to the next
#endif
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
#if BIAS
@group(0) @binding(4) var<storage, read> bias: array<f32>;
#if COUNT_LOADS
@group(0) @binding(5) var<storage, read_write> loads: array<atomic<u32>, 2>;
#endif
#elif COUNT_LOADS
@group(0) @binding(4) var<storage, read_write> loads: array<atomic<u32>, 2>;
#endif

#include "tile.wgsl"

/** work: head, first token, tokens. */
fn row_of(work: vec4u, place: u32) -> u32 {
    let token = work.y + min(place, work.z - 1u);
#if HEADS
    return token * params.heads + work.x;
#else
    return token;
#endif
}

fn store(token: u32, head: u32, first: u32, values: vec4f) {
    if (token < params.tokens) {
        for (var i = 0u; i < 4u; i++) {
            if (first + i < params.rows) {
#if HEADS
                let at = token * params.stride + head * params.head_stride + first + i;
#else
                let at = token * params.stride + params.first + first + i;
#endif
#if BIAS
                let value = values[i] + bias[params.bias_first + first + i];
#else
                let value = values[i];
#endif
#if ADD
                out[at] += value;
#else
                out[at] = value;
#endif
            }
        }
    }
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) invocation: u32) {
    let four = group.x * $GROUP + invocation;
    let most = (params.rows - 1u) / 4u;
    let held = min(four, most);  // invocations past the end compute the last rows and write nothing
    let token = group.y * tile_tokens;
    let tokens = min(tile_tokens, params.tokens - token);
    set_rows(invocation, vec4(group.z, token, tokens, 0u));
#if HEADS
    let base = group.z * params.head_quads;
#else
    let base = params.base;
#endif
    let groups = array(base + held / 4u * row_group(params.columns));
    let acc = tile(groups, held % 4u, invocation, tokens, params.columns);
    if (four > most) {
        return;
    }
    store(token + 0u, group.z, four * 4u, acc[0].t0);
#if TOKENS != 1
    store(token + 1u, group.z, four * 4u, acc[0].t1);
    store(token + 2u, group.z, four * 4u, acc[0].t2);
    store(token + 3u, group.z, four * 4u, acc[0].t3);
#if TOKENS != 4
    store(token + 4u, group.z, four * 4u, acc[0].t4);
    store(token + 5u, group.z, four * 4u, acc[0].t5);
    store(token + 6u, group.z, four * 4u, acc[0].t6);
    store(token + 7u, group.z, four * 4u, acc[0].t7);
#endif
#endif
}
