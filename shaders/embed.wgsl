// embed: rows of a table in the file's layout (csrc/quant/blocks.h), looked up by id and decoded to f32. Also dequantise: all rows in order.
// Bindings: 0 params · 1 table u32: rows first … first + rows - 1 · 2 out f32 [count][columns] · 3 status · with LOOKUP 4 ids i32 [count].
// Defines: TYPE, LOOKUP. Dispatch: 64 numbers a workgroup, folded over x and y.
// Rows of `out` whose id lies in another part of the table are left alone, so that a table of several bindings takes a launch each.
// An id that is outside the whole table is reported: status[1] = the lowest place in ids. Numerical notes: products in the file format's order.

struct Params {
    columns: u32,
    count: u32,
    first: u32,
    rows: u32,
    vocabulary: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>;
#if LOOKUP
@group(0) @binding(4) var<storage, read> ids: array<i32>;
#endif

fn byte_at(at: u32) -> u32 {
    return (table[at / 4u] >> (at % 4u * 8u)) & 0xffu;
}

fn signed_at(at: u32) -> i32 {
    return bitcast<i32>(byte_at(at) << 24u) >> 24u;
}

fn half_at(at: u32) -> f32 {
    return unpack2x16float(byte_at(at) | (byte_at(at + 1u) << 8u)).x;
}

/** Four bits of column `i` of 32, in 16 bytes: the low nibbles first. */
fn nibble_at(at: u32, i: u32) -> u32 {
    return (byte_at(at + i % 16u) >> (i / 16u * 4u)) & 15u;
}

/** The same with bit `i` of the four bytes at `high` as a fifth one. */
fn five_bits_at(high: u32, at: u32, i: u32) -> u32 {
    return nibble_at(at, i) | (((byte_at(high + i / 8u) >> (i % 8u)) & 1u) << 4u);
}

const iq4 = array<f32, 16>(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

/** 6 bits of block `b` of 8: of the scales with `first` 0, of the mins with 4. */
fn six_at(at: u32, b: u32, first: u32) -> u32 {
    if (b < 4u) {
        return byte_at(at + first + b) & 63u;
    }
    return ((byte_at(at + b + 4u) >> first) & 15u) | ((byte_at(at + first + b - 4u) >> 6u) << 4u);
}

fn decode(row: u32, column: u32) -> f32 {
#if TYPE == Q8_0
    let at = (row * (params.columns / 32u) + column / 32u) * 34u;
    return half_at(at) * f32(signed_at(at + 2u + column % 32u));
#elif TYPE == Q4_0
    let at = (row * (params.columns / 32u) + column / 32u) * 18u;
    return half_at(at) * f32(i32(nibble_at(at + 2u, column % 32u)) - 8);
#elif TYPE == Q4_1
    let at = (row * (params.columns / 32u) + column / 32u) * 20u;
    return fma(half_at(at), f32(nibble_at(at + 4u, column % 32u)), half_at(at + 2u));
#elif TYPE == Q5_0
    let at = (row * (params.columns / 32u) + column / 32u) * 22u;
    return half_at(at) * f32(i32(five_bits_at(at + 2u, at + 6u, column % 32u)) - 16);
#elif TYPE == Q5_1
    let at = (row * (params.columns / 32u) + column / 32u) * 24u;
    return fma(half_at(at), f32(five_bits_at(at + 4u, at + 8u, column % 32u)), half_at(at + 2u));
#elif TYPE == IQ4_NL
    let at = (row * (params.columns / 32u) + column / 32u) * 18u;
    return half_at(at) * iq4[nibble_at(at + 2u, column % 32u)];
#elif TYPE == IQ4_XS
    let at = (row * (params.columns / 256u) + column / 256u) * 136u;
    let b = column % 256u / 32u;
    let high = (byte_at(at + 2u + b / 4u) >> (b % 4u * 2u)) & 3u;
    let scale = i32(((byte_at(at + 4u + b / 2u) >> (b % 2u * 4u)) & 15u) | (high << 4u)) - 32;
    return half_at(at) * f32(scale) * iq4[nibble_at(at + 8u + b * 16u, column % 32u)];
#elif TYPE == Q6_K
    let at = (row * (params.columns / 256u) + column / 256u) * 210u;
    let i = column % 256u;
    let quarter = i % 128u / 32u;
    let low = byte_at(at + i / 128u * 64u + i % 64u) >> (quarter / 2u * 4u);
    let high = byte_at(at + 128u + i / 128u * 32u + i % 32u) >> (quarter * 2u);
    let scale = half_at(at + 208u) * f32(signed_at(at + 192u + i / 16u));
    return scale * f32(i32((low & 15u) | ((high & 3u) << 4u)) - 32);
#elif TYPE == Q4_K
    let at = (row * (params.columns / 256u) + column / 256u) * 144u;
    let i = column % 256u;
    let q = (byte_at(at + 16u + i / 64u * 32u + i % 32u) >> (i % 64u / 32u * 4u)) & 15u;
    let scale = half_at(at) * f32(six_at(at + 4u, i / 32u, 0u));
    return fma(scale, f32(q), -(half_at(at + 2u) * f32(six_at(at + 4u, i / 32u, 4u))));
#elif TYPE == Q5_K
    let at = (row * (params.columns / 256u) + column / 256u) * 176u;
    let i = column % 256u;
    let low = (byte_at(at + 48u + i / 64u * 32u + i % 32u) >> (i % 64u / 32u * 4u)) & 15u;
    let q = low | (((byte_at(at + 16u + i % 32u) >> (i / 32u)) & 1u) << 4u);
    let scale = half_at(at) * f32(six_at(at + 4u, i / 32u, 0u));
    return fma(scale, f32(q), -(half_at(at + 2u) * f32(six_at(at + 4u, i / 32u, 4u))));
#elif TYPE == MXFP4
    let at = (row * (params.columns / 32u) + column / 32u) * 17u;
    let e = byte_at(at);
    let code = nibble_at(at + 1u, column % 32u);
    let doubled = array<f32, 8>(0, 1, 2, 3, 4, 6, 8, 12)[code & 7u];
    let scale = bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << e, e < 2u));
    return scale * select(doubled, -doubled, code > 7u);
#elif TYPE == F32
    return bitcast<f32>(table[row * params.columns + column]);
#elif TYPE == F16
    return half_at((row * params.columns + column) * 2u);
#else
    let at = (row * params.columns + column) * 2u;
    return bitcast<f32>((byte_at(at) << 16u) | (byte_at(at + 1u) << 24u));
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
    let index = (group.x + group.y * groups.x) * 64u + invocation;
    if (index >= params.count * params.columns) {
        return;
    }
    let place = index / params.columns;
#if LOOKUP
    let id = bitcast<u32>(ids[place]);  // a negative one is past every table
    if (id >= params.vocabulary) {
        atomicMin(&status[1], place);
    }
#else
    let id = params.first + place;
#endif
    if (id - params.first < params.rows) {
        out[index] = decode(id - params.first, index % params.columns);
    }
}
