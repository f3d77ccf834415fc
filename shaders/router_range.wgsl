// Whether integers are small enough for exact sums: at most 24 bits of a router and its bias, 2^61 of a selection bias (kernel level; a model's are made
// as they should be).
//
// bindings   1 numbers [count], WIDE: (low, high) · 2 status: [WORD] lowest index of a number beyond ±2^23, or ±2^61
// defines    WORD: of the status · WIDE: integers of 64 bits
// dispatch   64 invocations of 16 numbers each, folded into x and y
#if WIDE
#include "int64.wgsl"
#endif

struct Params {
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
#if WIDE
@group(0) @binding(1) var<storage, read> numbers: array<vec2<u32>>;
#else
@group(0) @binding(1) var<storage, read> numbers: array<i32>;
#endif
@group(0) @binding(2) var<storage, read_write> status: array<atomic<u32>>;

fn beyond(i: u32) -> bool {
#if WIDE
    let most = vec2<u32>(0u, 0x20000000u);
    return i64_less(most, numbers[i]) || i64_less(numbers[i], i64_negated(most));
#else
    return numbers[i] > 0x800000 || numbers[i] < -0x800000;
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = (group.x + group.y * groups.x) * 1024u + lane;
    for (var i = first; i < min(first + 1024u, params.count); i += 64u) {
        if (beyond(i)) { atomicMin(&status[$WORD], i); }
    }
}
