// kv_write: rounds the keys and values of a step to the KV type and puts them into the pages of their sequences.
//
// Bindings   1 k [rows][kv_heads][head_dim] f32   2 v f32: a row's [kv_heads][value_dim] begin at row · v_stride + v_offset
//            3 rows [rows] of (absolute position, first entry of the row's sequence in `pages`)
//            4 pages: page numbers, one for each 64 positions of a sequence   5 cache: pages of one layer, read and written
//            6 status: the lowest row with a key or value that is not finite as the KV type holds it
// Defines    F16: elements are f16, two a word (else f32)   PAIRS: value_dim is even
// Dispatch   [words of a row / 64, rows, rows folded over z], workgroups of 64
// Numerics   the CPU's bytes. A page is what csrc/cpu/attention_simd.h says: per KV head keys in blocks of 16 positions
//            [head_dim][16], then values [position][value_dim]. Where an f16 shares its word with a neighbour's, the row of the
//            earlier position writes both; a neighbour that is not in this step keeps its half.

struct Params {
    rows: u32,
    kv_heads: u32,
    head_dim: u32,
    value_dim: u32,
    v_stride: u32,
    v_offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> rows: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
@group(0) @binding(5) var<storage, read_write> cache: array<u32>;
@group(0) @binding(6) var<storage, read_write> status: array<atomic<u32>>;

#include "f16.wgsl"
#include "math.wgsl"
#include "kv_page.wgsl"

/** Bits of element `index` of a head's keys or values in a row of this step. */
fn fresh(row: u32, head: u32, value: bool, index: u32) -> u32 {
    var x = 0.0;
    if (value) {
        x = v[row * params.v_stride + params.v_offset + head * params.value_dim + index];
    } else {
        x = k[(row * params.kv_heads + head) * params.head_dim + index];
    }
#if F16
    let bits = f16_bits(x);
    let finite = (bits & 0x7c00u) != 0x7c00u;
#else
    let bits = bitcast<u32>(x);
    let finite = is_finite(x);
#endif
    if (!finite) {
        atomicMin(&status[0], row);
    }
    return bits;
}

/** Does row + 1 hold the next position of the same sequence? */
fn followed(row: u32) -> bool {
    return row + 1u < params.rows && rows[row + 1u].y == rows[row].y && rows[row + 1u].x == rows[row].x + 1u;
}

/** Elements (slot, index) of the low and the high half of a word that this row has one of. */
fn write_pair(row: u32, slot: u32, head: u32, value: bool, at: u32, low: vec2<u32>, high: vec2<u32>) {
    var bits = 0u;
    if (low.x < slot) {
        if (row > 0u && followed(row - 1u)) {
            return;
        }
        bits = cache[at] & 0xffffu;
    } else {
        bits = fresh(row, head, value, low.y);
    }
    if (high.x == slot) {
        bits |= fresh(row, head, value, high.y) << 16u;
    } else if (followed(row)) {
        bits |= fresh(row + 1u, head, value, high.y) << 16u;
    } else {
        bits |= cache[at] & 0xffff0000u;
    }
    cache[at] = bits;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y + group.z * groups.y;
    let item = group.x * 64u + lane;
#if F16
    let value_items = (params.value_dim + 1u) / 2u;    // words that a row has a part of
#else
    let value_items = params.value_dim;
#endif
    let head_items = params.head_dim + value_items;
    let head = item / head_items;
    if (row >= params.rows || head >= params.kv_heads) {
        return;
    }
    let index = item - head * head_items;
    let slot = rows[row].x % PAGE;
    let first = page_first(row, head);
    let values = first + PAGE * params.head_dim;
    let is_value = index >= params.head_dim;
    let element = select(index, index - params.head_dim, is_value);
    let key = key_element(first, slot, element);
#if !F16
    cache[select(key, values + slot * params.value_dim + element, is_value)] = fresh(row, head, is_value, element);
#else
    var at = key / 2u;
    var low = vec2(slot & ~1u, element);
    var high = vec2(slot | 1u, element);
    if (is_value) {
#if PAIRS
        let word = slot * (params.value_dim / 2u) + element;
        low = vec2(slot, 2u * element);
        high = vec2(slot, 2u * element + 1u);
#else
        let word = slot * params.value_dim / 2u + element;
        low = vec2(2u * word / params.value_dim, 2u * word % params.value_dim);
        high = vec2((2u * word + 1u) / params.value_dim, (2u * word + 1u) % params.value_dim);
#endif
        at = values / 2u + word;
    }
    write_pair(row, slot, head, is_value, at, low, high);
#endif
}
