// expert_matmul: one matrix of every expert, or gate and up together with silu(gate · x) ∘ (up · x), over dispatched rows (csrc/cpu/expert_matmul.h).
// Bindings: 0 params · 1 tiles vec4u, from expert_tiles.wgsl · 2 slots u32 [rows], from dispatch · 3 slot_table u32 [experts]: the slot in
// which an expert's weights are, 0xffffffff = nowhere · 4 weights0 u32 (quads): slots slab_first … slab_first + slab_slots - 1 ·
// 5 activations: f32 […][columns] for float weights, blocks of quantise.wgsl for quantised ones; of tokens with GATHER, else of dispatched rows ·
// 6 out f32 [dispatched rows][rows] · with MATRICES 2: 7 weights1 (up; weights0 is gate) · with BIAS, which is for MATRICES 1: 7 bias f32
// [experts][rows] · with COUNT_LOADS last: loads u32 [2].
// Defines: those of tile.wgsl, GATHER, BIAS (added once to each product).
// Dispatch: x over 4 · GROUP output rows each, y over tiles of up to TOKENS · PARTS rows. A workgroup ends at once where its tile is empty or its
// expert is in no slot of the binding, so that one launch per slab does a layer. Numerical notes: tile.wgsl; silu as math.wgsl.

#if BROADCAST
enable subgroups;
diagnostic(off, subgroup_uniformity);  // GROUP is whole subgroups, so that each has one part
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
#if COUNT_LOADS
@group(0) @binding(8) var<storage, read_write> loads: array<atomic<u32>, 2>;
#endif
#elif BIAS
@group(0) @binding(7) var<storage, read> bias: array<f32>;
#if COUNT_LOADS
@group(0) @binding(8) var<storage, read_write> loads: array<atomic<u32>, 2>;
#endif
#elif COUNT_LOADS
@group(0) @binding(7) var<storage, read_write> loads: array<atomic<u32>, 2>;
#endif

#include "math.wgsl"
#include "tile.wgsl"

fn silu4(x: vec4f) -> vec4f {
    return vec4(silu(x.x), silu(x.y), silu(x.z), silu(x.w));
}

/** The activations' row of a tile's place; places past its rows repeat the last. */
fn row_of(work: vec4u, place: u32) -> u32 {
    let row = work.y + min(place, work.z - 1u);
#if GATHER
    return slots[row] / params.k;
#else
    return row;
#endif
}

fn store(work: vec4u, place: u32, first: u32, values: vec4f) {
    if (place < work.z) {
        for (var i = 0u; i < 4u; i++) {
            if (first + i < params.rows) {
#if BIAS
                out[(work.y + place) * params.rows + first + i] = values[i] + bias[work.x * params.rows + first + i];
#else
                out[(work.y + place) * params.rows + first + i] = values[i];
#endif
            }
        }
    }
}

fn store_tile(work: vec4u, place: u32, first: u32, acc: array<Outputs, matrices>) {
#if MATRICES == 2
    var values: Outputs;
    values.t0 = silu4(acc[0].t0) * acc[1].t0;
#if TOKENS != 1
    values.t1 = silu4(acc[0].t1) * acc[1].t1;
    values.t2 = silu4(acc[0].t2) * acc[1].t2;
    values.t3 = silu4(acc[0].t3) * acc[1].t3;
#if TOKENS != 4
    values.t4 = silu4(acc[0].t4) * acc[1].t4;
    values.t5 = silu4(acc[0].t5) * acc[1].t5;
    values.t6 = silu4(acc[0].t6) * acc[1].t6;
    values.t7 = silu4(acc[0].t7) * acc[1].t7;
#endif
#endif
#else
    let values = acc[0];
#endif
    store(work, place + 0u, first, values.t0);
#if TOKENS != 1
    store(work, place + 1u, first, values.t1);
    store(work, place + 2u, first, values.t2);
    store(work, place + 3u, first, values.t3);
#if TOKENS != 4
    store(work, place + 4u, first, values.t4);
    store(work, place + 5u, first, values.t5);
    store(work, place + 6u, first, values.t6);
    store(work, place + 7u, first, values.t7);
#endif
#endif
}

@compute @workgroup_size(invocations)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) invocation: u32) {
    let work = tiles[group.y];
    if (work.z == 0u) {
        return;
    }
    let own = invocation / group_fours * tile_tokens;
    let slot = slot_table[work.x] - params.slab_first;
    if (slot >= params.slab_slots) {
        return;
    }
    let four = group.x * group_fours + invocation % group_fours;
    let most = (params.rows - 1u) / 4u;
    let held = min(four, most);  // invocations past the end compute the last rows and write them again
    let quads = held / 4u * row_group(params.columns);
#if MATRICES == 2
    let groups = array(slot * params.stride0 + params.base0 + quads, slot * params.stride1 + params.base1 + quads);
#else
    let groups = array(slot * params.stride0 + params.base0 + quads);
#endif
    set_rows(invocation, work);
    store_tile(work, own, held * 4u, tile(groups, held % 4u, invocation, work.z, params.columns));
}
