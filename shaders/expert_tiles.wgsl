// expert_tiles: the work of expert_matmul: dispatched rows in tiles of one expert each, experts in order.
// Bindings: 0 params · 1 offsets u32 [experts + 1] · 2 slots u32 [rows], both from dispatch · 3 out vec4u [tiles]: expert, first row, rows, 0 (no
// rows: nothing to do) · 4 status. Defines: none. Dispatch: one workgroup.
// Tiles are at most `tile` rows; `tiles` is their bound (launches/expert-matmul.ts). What no dispatch gave is reported: status[1] = the lowest place in
// offsets, or in slots, that is wrong. Numerical notes: integers only.

struct Params {
    experts: u32,
    rows: u32,
    tile: u32,
    tiles: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> offsets: array<u32>;
@group(0) @binding(2) var<storage, read> slots: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> status: array<atomic<u32>>;

var<workgroup> counts: array<u32, 64>;

/** Rows of an expert, none where the offsets are not in order. */
fn rows_of(expert: u32) -> vec2u {
    let begin = offsets[expert];
    let end = offsets[expert + 1u];
    if (begin > end || end > params.rows) {
        atomicMin(&status[1], expert);
        return vec2u();
    }
    return vec2(begin, end);
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) invocation: u32) {
    if (invocation == 0u && (offsets[0] != 0u || offsets[params.experts] != params.rows)) {
        atomicMin(&status[1], 0u);
    }
    for (var row = invocation; row < params.rows; row += 64u) {
        if (slots[row] >= params.rows) {
            atomicMin(&status[1], row);
        }
    }
    let share = (params.experts + 63u) / 64u;
    let first = invocation * share;
    let last = min(first + share, params.experts);
    var count = 0u;
    for (var expert = first; expert < last; expert++) {
        let rows = rows_of(expert);
        count += (rows.y - rows.x + params.tile - 1u) / params.tile;
    }
    counts[invocation] = count;
    workgroupBarrier();
    var at = 0u;
    var total = 0u;
    for (var i = 0u; i < 64u; i++) {
        if (i < invocation) {
            at += counts[i];
        }
        total += counts[i];
    }
    for (var expert = first; expert < last; expert++) {
        let rows = rows_of(expert);
        for (var row = rows.x; row < rows.y && at < params.tiles; row += params.tile) {
            out[at] = vec4(expert, row, min(params.tile, rows.y - row), 0u);
            at++;
        }
    }
    for (var i = total + invocation; i < params.tiles; i += 64u) {
        out[i] = vec4u();
    }
}
