// rope_table: cosines and sines of every row's angles, position · frequency, times the magnitude.
//
// Bindings   1 positions [rows] u32   2 frequencies [half]: base^(-2i / rotary) / 2π (or as it is scaled), a fraction of a turn as (low, high) words of 64 bits
//            3 table out [rows][half] of (cos, sin)
// Dispatch   one invocation for each pair, workgroups of 64, folded over y (launches/launch.ts, grid)
// Numerics   the angle is an integer fraction of a turn, so that large positions lose nothing; from its nearest quarter turn on, Taylor to
//            r^9 and r^8: within some 2^-23 of the CPU's table, which is in doubles.

struct Params {
    rows: u32,
    half: u32,
    magnitude: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(2) var<storage, read> frequencies: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> table: array<vec2<f32>>;

/** The high 32 bits of a product. */
fn high_product(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let first = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let second = (a & 0xffffu) * (b >> 16u) + (first & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (first >> 16u) + (second >> 16u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let pair = (group.x + group.y * groups.x) * 64u + lane;
    if (pair >= params.rows * params.half) {
        return;
    }
    let position = positions[pair / params.half];
    let frequency = frequencies[pair % params.half];
    let turn = position * frequency.y + high_product(position, frequency.x);    // whole turns fall off above
    let quarter = (turn + 0x20000000u) >> 30u;
    let r = f32(bitcast<i32>(turn - (quarter << 30u))) * (6.28318530717958647692 / 4294967296.0);
    let square = r * r;
    var s = fma(square, 1.0 / 362880.0, -1.0 / 5040.0);
    s = fma(square, s, 1.0 / 120.0);
    s = fma(square, s, -1.0 / 6.0);
    s = fma(square * s, r, r);
    var c = fma(square, 1.0 / 40320.0, -1.0 / 720.0);
    c = fma(square, c, 1.0 / 24.0);
    c = fma(square, c, -0.5);
    c = fma(square, c, 1.0);
    let swapped = (quarter & 1u) == 1u;
    let cosine = select(c, s, swapped);
    let sine = select(s, c, swapped);
    table[pair] = params.magnitude * vec2(select(cosine, -cosine, quarter == 1u || quarter == 2u), select(sine, -sine, quarter >= 2u));
}
