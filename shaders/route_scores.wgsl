// route, first pass: exact integer scores of every router row for every token (csrc/cpu/route.h).
//
// bindings   1 states [tokens][width], the bits of f32 · 2 router [rows][width], 24-bit integers; rows of all routers: experts, then groups, then tiers
//            3 scores out [tokens][rows] (low, high) · 4 exponents out [tokens] · 5 status: [0] lowest token with a value that is not finite
// dispatch   64 invocations; one workgroup for 4 rows of one token: tokens · blocks workgroups, folded into x and y
// numbers    a state is quantised from its f32 bits by integers alone: the least e >= -103 with |x| < 2^e, q = x · 2^(23 - e) to the nearest, ties to even.
//            A product of 24 by 24 bits is summed in three limbs of 12 bits; 128 terms stay within 32 bits, then they go into 64. Sums are exact, so that
//            neither the number of invocations nor their order is seen in them.
#include "int64.wgsl"

struct Params {
    tokens: u32,
    rows: u32,
    width: u32,
    blocks: u32,   // ceil(rows / 4)
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> states: array<u32>;
@group(0) @binding(2) var<storage, read> router: array<i32>;
@group(0) @binding(3) var<storage, read_write> scores: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> exponents: array<i32>;
@group(0) @binding(5) var<storage, read_write> status: array<atomic<u32>>;

const lanes = 64u;
const terms = 128u;   // 128 · (2 · 2^11 · (2^12 - 1)) < 2^31

var<workgroup> most: atomic<u32>;
var<workgroup> sums: array<array<vec2<u32>, 64>, 4>;

/** x · 2^(23 - exponent) of an f32 with |x| < 2^exponent. */
fn integer(bits: u32, exponent: i32) -> i32 {
    let field = (bits >> 23u) & 0xffu;
    let mantissa = (bits & 0x7fffffu) | select(0u, 0x800000u, field != 0u);
    let shift = u32(exponent + 127 - i32(max(field, 1u)));   // at least 1
    if (shift > 24u) { return 0; }
    let q = i32((mantissa + (1u << (shift - 1u)) - 1u + ((mantissa >> shift) & 1u)) >> shift);
    return select(q, -q, (bits >> 31u) != 0u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.x + group.y * groups.x;
    let token = at / params.blocks;
    let first = at % params.blocks * 4u;
    if (token >= params.tokens) { return; }
    let state = token * params.width;

    var own = 0u;
    for (var c = lane; c < params.width; c += lanes) { own = max(own, states[state + c] & 0x7fffffffu); }
    atomicMax(&most, own);
    workgroupBarrier();
    let largest = atomicLoad(&most);
    let finite = largest < 0x7f800000u;
    let exponent = max(i32(largest >> 23u) - 126, -103);

    let rows = min(vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.rows - 1u)) * params.width;
    var total: array<vec2<u32>, 4>;
    for (var begin = lane; finite && begin < params.width; begin += lanes * terms) {
        var low = vec4<u32>();
        var middle = vec4<i32>();
        var high = vec4<i32>();
        let end = min(params.width, begin + lanes * terms);
        for (var c = begin; c < end; c += lanes) {
            let x = integer(states[state + c], exponent);
            let w = vec4<i32>(router[rows.x + c], router[rows.y + c], router[rows.z + c], router[rows.w + c]);
            let xl = vec4<i32>(x & 0xfff);
            let xh = vec4<i32>(x >> 12u);
            let wl = w & vec4<i32>(0xfff);
            let wh = w >> vec4<u32>(12u);
            low += bitcast<vec4<u32>>(xl * wl);
            middle += xh * wl + xl * wh;
            high += xh * wh;
        }
        for (var r = 0u; r < 4u; r++) {
            let sum = i64_add(vec2<u32>(low[r], 0u), u64_shl(i64_of(middle[r]), 12u));
            total[r] = i64_add(total[r], i64_add(sum, u64_shl(i64_of(high[r]), 24u)));
        }
    }
    for (var r = 0u; r < 4u; r++) { sums[r][lane] = total[r]; }
    workgroupBarrier();
    // 16 invocations for each of the 4 rows, then one
    let row = lane / 16u;
    let part = lane % 16u;
    var sum = vec2<u32>();
    for (var i = part; i < lanes; i += 16u) { sum = i64_add(sum, sums[row][i]); }
    workgroupBarrier();
    sums[row][part] = sum;
    workgroupBarrier();
    if (part == 0u && first + row < params.rows) {
        for (var i = 1u; i < 16u; i++) { sum = i64_add(sum, sums[row][i]); }
        scores[token * params.rows + first + row] = sum;
    }
    if (lane == 0u && first == 0u) {
        exponents[token] = exponent;
        if (!finite) { atomicMin(&status[0], token); }
    }
}
