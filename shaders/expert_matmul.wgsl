// expert_matmul: one matrix of every expert, or gate and up together with silu(gate · x) ∘ (up · x), over dispatched rows (csrc/cpu/expert_matmul.h).
// Bindings: 0 params · 1 tiles vec4u, from expert_tiles.wgsl · 2 slots u32 [rows], from dispatch · 3 slot_table u32 [experts]: the slot in
// which an expert's weights are, 0xffffffff = nowhere · 4 weights0 u32 (quads): slots slab_first … slab_first + slab_slots - 1 ·
// 5 activations: f32 […][columns] for float weights, blocks of quantise.wgsl for quantised ones; of tokens with GATHER, else of dispatched rows ·
// 6 out f32 [dispatched rows][rows] · with MATRICES 2: 7 weights1 (up; weights0 is gate) · with COUNT_LOADS last: loads.
// Defines: TYPE and those of tile.wgsl, GROUP (invocations of a workgroup), GATHER.
// Dispatch: x over 4 · GROUP output rows each, y over tiles. A workgroup ends at once where its tile is empty or its expert is in no slot of the
// binding, so that one launch per slab does a layer. Numerical notes: tile.wgsl; silu as math.wgsl.

#if BROADCAST
enable subgroups;
#endif
#if F16
enable f16;
#endif

struct Params {
    rows: u32,
    columns: u32,
    k: u32,
    slab_first: u32,
    slab_slots: u32,
    stride0: u32,   // quads from slot to slot
    base0: u32,     // quads from a slot's begin to the matrix
    stride1: u32,
    base1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tiles: array<vec4u>;
@group(0) @binding(2) var<storage, read> slots: array<u32>;
@group(0) @binding(3) var<storage, read> slot_table: array<u32>;
@group(0) @binding(4) var<storage, read> weights0: array<vec4u>;
#if !QUANTISED
@group(0) @binding(5) var<storage, read> activations: array<f32>;
#elif BROADCAST
@group(0) @binding(5) var<storage, read> activations: array<u32>;
#else
@group(0) @binding(5) var<storage, read> activations: array<vec4u>;
#endif
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
#if MATRICES == 2
@group(0) @binding(7) var<storage, read> weights1: array<vec4u>;
#endif
#if COUNT_LOADS
@group(0) @binding(8) var<storage, read_write> loads: atomic<u32>;
#endif

#include "math.wgsl"
#include "tile.wgsl"

@compute @workgroup_size($GROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) invocation: u32) {
    let work = tiles[group.y];
    let slot = slot_table[work.x] - params.slab_first;
    if (work.z == 0u || slot >= params.slab_slots) {
        return;
    }
    let four = group.x * $GROUP + invocation;
    let most = (params.rows - 1u) / 4u;
    let held = min(four, most);  // invocations past the end compute the last rows and write nothing
    var rows: array<u32, tile_tokens>;
    for (var t = 0u; t < tile_tokens; t++) {
        rows[t] = work.y + min(t, work.z - 1u);
#if GATHER
        rows[t] = slots[rows[t]] / params.k;
#endif
    }
    let quads = held / 4u * row_group(params.columns);
#if MATRICES == 2
    let groups = array(slot * params.stride0 + params.base0 + quads, slot * params.stride1 + params.base1 + quads);
#else
    let groups = array(slot * params.stride0 + params.base0 + quads);
#endif
    let acc = tile(groups, held % 4u, invocation, rows, params.columns);
    if (four > most) {
        return;
    }
    for (var t = 0u; t < tile_tokens; t++) {
        if (t < work.z) {
            for (var i = 0u; i < 4u; i++) {
                let row = four * 4u + i;
                if (row < params.rows) {
#if MATRICES == 2
                    out[(work.y + t) * params.rows + row] = silu(acc[t][i]) * acc[tile_tokens + t][i];
#else
                    out[(work.y + t) * params.rows + row] = acc[t][i];
#endif
                }
            }
        }
    }
}
