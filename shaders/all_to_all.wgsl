// all-to-all: tokens' rows in the order of the ranks that they go to, and back into slots (csrc/cpu/dispatch.h).
//
// bindings   1 from: to pack [tokens][width], to unpack [rows][width] in row order · 2 slots [rows], from dispatch
//            3 to: pack [rows][width] in row order, unpack [rows][width] in slot order · 4 seen [rows], zeros · 5 status: [1] lowest row whose slot is not there
//            or stands twice
// defines    PACK: tokens to rows; otherwise rows to slots
// dispatch   64 invocations; one workgroup for 256 columns of one row: rows · blocks workgroups, folded into x and y
// numbers    words are moved, never looked at.
struct Params {
    rows: u32,
    k: u32,
    width: u32,
    blocks: u32,   // ceil(width / 256), at least 1
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> from_rows: array<u32>;
@group(0) @binding(2) var<storage, read> slots: array<u32>;
@group(0) @binding(3) var<storage, read_write> to_rows: array<u32>;
@group(0) @binding(4) var<storage, read_write> seen: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> status: array<atomic<u32>>;

const lanes = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.x + group.y * groups.x;
    let row = at / params.blocks;
    let begin = at % params.blocks * 256u;
    if (row >= params.rows) { return; }
    let slot = slots[row];
    if (slot >= params.rows) {
        if (lane == 0u) { atomicMin(&status[1], row); }
        return;
    }
    if (lane == 0u && begin == 0u) {
        if (atomicAdd(&seen[slot], 1u) != 0u) { atomicMin(&status[1], row); }
    }
#if PACK
    let source = slot / params.k * params.width;
    let target_row = row * params.width;
#else
    let source = row * params.width;
    let target_row = slot * params.width;
#endif
    for (var c = begin + lane; c < min(begin + 256u, params.width); c += lanes) { to_rows[target_row + c] = from_rows[source + c]; }
}
