// heads: queries, keys and values of a product's rows as attention takes them: normalised, rotated, and put into the cache.
//
// Bindings   1 x [rows][stride] f32: queries from 0, keys from k_offset, values from v_offset   2 table [rows][half] of (cos, sin)
//            3 q out [rows][q_runs · q_n] f32   4 status: the lowest row with a sum of squares, or a number for the cache, that is not finite
//            without CACHE: 5 k out [rows][k_runs · k_n] f32   NORM: 6 weights of queries [q_n]   7 weights of keys [k_n]
//            with CACHE: 5 rows, 6 pages, 7 cache as in kv_write.wgsl   NORM: 8, 9 as 6, 7 above
// Defines    NORM: runs of q_n and of k_n numbers (a head's, or the whole row's) are normalised first
//            CACHE: keys and values go into the cache; no two rows are of one sequence   F16: two of its numbers a word; value_dim is even
// Dispatch   workgroups of 64, folded over y (launches/launch.ts, grid); for each row one for each run of queries, then of keys, then, with
//            CACHE, one for each head of values
// Numerics   the same bits as rms_norm.wgsl, rope.wgsl and kv_write.wgsl one after another

struct Params {
    rows: u32,
    stride: u32,
    k_offset: u32,
    v_offset: u32,
    q_runs: u32,
    q_n: u32,
    k_runs: u32,
    k_n: u32,
    head_dim: u32,
    half: u32,           // pairs of a head
    interleaved: u32,    // pairs (2i, 2i + 1), else (i, half + i)
    epsilon: f32,
    kv_heads: u32,
    value_dim: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
@group(0) @binding(4) var<storage, read_write> status: array<atomic<u32>>;
#if CACHE
@group(0) @binding(5) var<storage, read> rows: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> pages: array<u32>;
@group(0) @binding(7) var<storage, read_write> cache: array<u32>;
#if NORM
@group(0) @binding(8) var<storage, read> q_weight: array<f32>;
@group(0) @binding(9) var<storage, read> k_weight: array<f32>;
#endif
#else
@group(0) @binding(5) var<storage, read_write> k: array<f32>;
#if NORM
@group(0) @binding(6) var<storage, read> q_weight: array<f32>;
@group(0) @binding(7) var<storage, read> k_weight: array<f32>;
#endif
#endif

#include "math.wgsl"
#if NORM
#include "rms.wgsl"
#endif
#if CACHE
#include "kv_page.wgsl"
#if F16
#include "f16.wgsl"
#endif
#endif

/** A part of a row: runs are numbered over the row's queries, then over its keys. */
struct Run {
    row: u32,
    is_key: bool,
    begin: u32,    // in x
    to: u32,       // in the row of q or k
    scale: f32,
}

fn element(run: Run, i: u32) -> f32 {
#if NORM
    if (run.is_key) {
        return x[run.begin + i] * run.scale * k_weight[i];
    }
    return x[run.begin + i] * run.scale * q_weight[i];
#else
    return x[run.begin + i];
#endif
}

#if CACHE
/** Bits of a number as the cache has it. */
fn held(row: u32, value: f32) -> u32 {
#if F16
    let bits = f16_bits(value);
    let finite = (bits & 0x7c00u) != 0x7c00u;
#else
    let bits = bitcast<u32>(value);
    let finite = is_finite(value);
#endif
    if (!finite) {
        atomicMin(&status[0], row);
    }
    return bits;
}

fn put_values(row: u32, head: u32, lane: u32) {
    let begin = row * params.stride + params.v_offset + head * params.value_dim;
    let to = page_first(row, head) + PAGE * params.head_dim + rows[row].x % PAGE * params.value_dim;
#if F16
    for (var i = lane; i < params.value_dim / 2u; i += 64u) {
        cache[to / 2u + i] = held(row, x[begin + 2u * i]) | (held(row, x[begin + 2u * i + 1u]) << 16u);
    }
#else
    for (var i = lane; i < params.value_dim; i += 64u) {
        cache[to + i] = held(row, x[begin + i]);
    }
#endif
}

/** Key `at` of a row, counted over all heads. A word that a neighbouring position shares keeps that half. */
fn put_key(row: u32, at: u32, value: f32) {
    let slot = rows[row].x % PAGE;
    let place = key_element(page_first(row, at / params.head_dim), slot, at % params.head_dim);
    let bits = held(row, value);
#if F16
    let other = cache[place / 2u];
    cache[place / 2u] = select((other & 0xffff0000u) | bits, (other & 0xffffu) | (bits << 16u), place % 2u == 1u);
#else
    cache[place] = bits;
#endif
}
#else
fn put_key(row: u32, at: u32, value: f32) {
    k[row * params.k_runs * params.k_n + at] = value;
}
#endif

fn put(run: Run, i: u32, value: f32) {
    if (run.is_key) {
        put_key(run.row, run.to + i, value);
    } else {
        q[run.row * params.q_runs * params.q_n + run.to + i] = value;
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#if CACHE
    let runs = params.q_runs + params.k_runs + params.kv_heads;
#else
    let runs = params.q_runs + params.k_runs;
#endif
    let at = group.x + group.y * groups.x;
    let row = at / runs;
    let number = at % runs;
    if (row >= params.rows) {
        return;
    }
#if CACHE
    if (number >= params.q_runs + params.k_runs) {
        put_values(row, number - params.q_runs - params.k_runs, lane);
        return;
    }
#endif
    let is_key = number >= params.q_runs;
    let n = select(params.q_n, params.k_n, is_key);
    let to = (number - select(0u, params.q_runs, is_key)) * n;
    let begin = row * params.stride + select(0u, params.k_offset, is_key) + to;
    var scale = 1.0;
#if NORM
    var sum = 0.0;
    for (var i = lane; i < n; i += 64u) {
        sum = fma(x[begin + i], x[begin + i], sum);
    }
    let total = sum_of_squares(lane, sum);
    if (lane == 0u && !is_finite(total)) {
        atomicMin(&status[0], row);
    }
    scale = 1.0 / sqrt(total / f32(n) + params.epsilon);
#endif
    let run = Run(row, is_key, begin, to, scale);
    // A head's pairs, then what is not rotated.
    let items = params.head_dim - params.half;
    for (var item = lane; item < n / params.head_dim * items; item += 64u) {
        let head = item / items * params.head_dim;
        let i = item % items;
        if (i >= params.half) {
            put(run, head + params.half + i, element(run, head + params.half + i));
            continue;
        }
        let first = head + select(i, 2u * i, params.interleaved != 0u);
        let second = head + select(params.half + i, 2u * i + 1u, params.interleaved != 0u);
        let angle = table[row * params.half + i];
        let a = element(run, first);
        let b = element(run, second);
        put(run, first, fma(a, angle.x, -(b * angle.y)));
        put(run, second, fma(b, angle.x, a * angle.y));
    }
}
