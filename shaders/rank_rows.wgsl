// all-to-all: rows that go to each rank, and whether the offsets are a dispatch's (csrc/cpu/dispatch.h). Experts are split evenly in ascending order,
// the first ranks one more.
//
// bindings   1 offsets [experts + 1], from dispatch · 2 rank_rows out [ranks] · 3 status: [2] lowest offset that does not follow from 0 up to `rows`
// dispatch   one workgroup of 256 invocations
// numbers    whole numbers only
struct Params {
    rows: u32,
    experts: u32,
    ranks: u32,   // 0: only the check
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> offsets: array<u32>;
@group(0) @binding(2) var<storage, read_write> rank_rows: array<u32>;
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>;

const lanes = 256u;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var e = lane; e <= params.experts; e += lanes) {
        var least = 0u;
        if (e > 0u) { least = offsets[e - 1u]; }
        let wrong = offsets[e] < least || (e == 0u && offsets[e] != 0u) || (e == params.experts && offsets[e] != params.rows);
        if (wrong) { atomicMin(&status[2], e); }
    }
    for (var rank = lane; rank < params.ranks; rank += lanes) {
        let share = params.experts / params.ranks;
        let more = params.experts % params.ranks;
        let first = rank * share + min(rank, more);
        rank_rows[rank] = offsets[first + share + select(0u, 1u, rank < more)] - offsets[first];
    }
}
