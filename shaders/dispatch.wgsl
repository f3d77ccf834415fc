// dispatch: slots (token · k + choice) sorted by (expert, slot); a row is a slot's place in that order (csrc/cpu/dispatch.h).
//
// bindings   1 ids [tokens · k] · 2 offsets out [experts + 1]: expert e owns rows offsets[e] … offsets[e + 1] - 1 · 3 slots out: the slot of each row
//            4 rows out: the row of each slot · 5 status: [1] lowest slot whose id is no expert or stands before it in its token
//            6 tiles out (TILES): the tiles of expert_tiles.wgsl, which finds the same in what is written here
// defines    EXPERTS: counters in the workgroup's memory, at least `experts` · TILES: with binding 6
// dispatch   one workgroup of 256 invocations
// numbers    integers only: counts, their prefix sums, then 256 slots at a time, each slot's row being its expert's next and the number of equal ids
//            before it among the 256. The order is that of the CPU's counting sort.
struct Params {
    slots: u32,
    k: u32,
    experts: u32,
    tile: u32,    // most rows of a tile; 1 without TILES
    tiles: u32,   // their bound
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> offsets: array<u32>;
@group(0) @binding(3) var<storage, read_write> slots: array<u32>;
@group(0) @binding(4) var<storage, read_write> rows: array<u32>;
@group(0) @binding(5) var<storage, read_write> status: array<atomic<u32>>;
#if TILES
@group(0) @binding(6) var<storage, read_write> tiles: array<vec4<u32>>;
#endif

const lanes = 256u;

var<workgroup> next: array<atomic<u32>, $EXPERTS>;   // counts, then the row that each expert's next slot takes
var<workgroup> part: array<vec2<u32>, 256>;         // rows, tiles
var<workgroup> tile: array<u32, 256>;

/** Whether a slot's id is an expert that its token has not chosen before. */
fn sound(slot: u32) -> bool {
    let id = ids[slot];
    if (id >= params.experts) { return false; }
    for (var before = slot - slot % params.k; before < slot; before++) {
        if (ids[before] == id) { return false; }
    }
    return true;
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var slot = lane; slot < params.slots; slot += lanes) {
        if (!sound(slot)) { atomicMin(&status[1], slot); }
        if (ids[slot] < params.experts) { atomicAdd(&next[ids[slot]], 1u); }
    }
    workgroupBarrier();
    // prefix sums: each invocation over a stretch of experts, then over the stretches
    let stretch = (params.experts + lanes - 1u) / lanes;
    let first = min(lane * stretch, params.experts);
    let last = min(first + stretch, params.experts);
    var sum = vec2<u32>();
    for (var e = first; e < last; e++) {
        let count = atomicLoad(&next[e]);
        sum += vec2<u32>(count, (count + params.tile - 1u) / params.tile);
    }
    part[lane] = sum;
    for (var step = 1u; step < lanes; step *= 2u) {
        workgroupBarrier();
        var before = vec2<u32>();
        if (lane >= step) { before = part[lane - step]; }
        workgroupBarrier();
        part[lane] += before;
    }
    workgroupBarrier();
    var row = part[lane].x - sum.x;
#if TILES
    var at = part[lane].y - sum.y;
#endif
    for (var e = first; e < last; e++) {
        let count = atomicLoad(&next[e]);
        atomicStore(&next[e], row);
        offsets[e] = row;
#if TILES
        for (var done = 0u; done < count && at < params.tiles; done += params.tile) {
            tiles[at] = vec4<u32>(e, row + done, min(params.tile, count - done), 0u);
            at++;
        }
#endif
        row += count;
    }
    if (lane == lanes - 1u) { offsets[params.experts] = part[lane].x; }
#if TILES
    for (var i = part[lanes - 1u].y + lane; i < params.tiles; i += lanes) { tiles[i] = vec4<u32>(); }
#endif

    for (var begin = 0u; begin < params.slots; begin += lanes) {
        let slot = begin + lane;
        var id = 0xffffffffu;
        if (slot < params.slots) { id = ids[slot]; }
        tile[lane] = id;
        workgroupBarrier();
        var before = 0u;
        var after = 0u;
        let count = min(lanes, params.slots - begin);
        for (var i = 0u; i < count; i++) {
            let equal = select(0u, 1u, tile[i] == id);
            before += select(0u, equal, i < lane);
            after += select(0u, equal, i > lane);
        }
        var to = 0u;
        if (id < params.experts) {
            to = atomicLoad(&next[id]) + before;
            slots[to] = slot;
            rows[slot] = to;
        }
        workgroupBarrier();
        if (id < params.experts && after == 0u) { atomicStore(&next[id], to + 1u); }
        workgroupBarrier();
    }
}
