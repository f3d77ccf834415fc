// blocks_k: Q4_K and Q5_K in the kernels' layout (csrc/quant/repack.h). Per 256 columns × 16 rows 8 blocks of 32 columns, each 16 quads (of 16
// bytes) of nibbles and with FIVE_BITS 4 of high bits (as blocks_small.wgsl); then 2 quads of f16 d, 2 of f16 dmin, and 4 each of the file's
// scale words 0, 1 and 2 (quad lane: rows 4·lane …), which hold 6 bits of scale and of minimum for each block.

#if FIVE_BITS
const part_quads = 20u;
#else
const part_quads = 16u;
#endif
const scale_quad = 8u * part_quads;
const block_quads = scale_quad + 16u;

struct Block {
    n: array<vec4u, 4>,
#if FIVE_BITS
    high: vec4u,
#endif
    sub_scale: vec4i,
    sub_min: vec4i,
    scale: vec4f,
    least: vec4f,
}

fn row_group(columns: u32) -> u32 {
    return columns / 256u * block_quads;
}

/** Of block `b` of 8, four rows each: the scales, then the minimums; 12 quads from `at` on hold the words. */
fn sub_scales(matrix: u32, at: u32, lane: u32, b: u32) -> array<vec4i, 2> {
    let first = fetch(matrix, at + lane);
    let second = fetch(matrix, at + 4u + lane);
    var scales = first & vec4(0x3f3f3f3fu);
    var mins = second & vec4(0x3f3f3f3fu);
    if (b >= 4u) {
        let third = fetch(matrix, at + 8u + lane);
        scales = (third & vec4(0x0f0f0f0fu)) | ((first >> vec4(2u)) & vec4(0x30303030u));
        mins = ((third >> vec4(4u)) & vec4(0x0f0f0f0fu)) | ((second >> vec4(2u)) & vec4(0x30303030u));
    }
    let shift = vec4(8u * (b % 4u));
    return array(vec4i((scales >> shift) & vec4(0xffu)), vec4i((mins >> shift) & vec4(0xffu)));
}

fn load_block(matrix: u32, group: u32, lane: u32, b: u32) -> Block {
    let big = group + b / 8u * block_quads;
    let at = big + b % 8u * part_quads + lane;
    let sub = sub_scales(matrix, big + scale_quad + 4u, lane, b % 8u);
    return Block(
        array(fetch(matrix, at), fetch(matrix, at + 4u), fetch(matrix, at + 8u), fetch(matrix, at + 12u)),
#if FIVE_BITS
        fetch(matrix, at + 16u),
#endif
        sub[0],
        sub[1],
        fetch_halves(matrix, big + scale_quad, lane),
        fetch_halves(matrix, big + scale_quad + 2u, lane)
    );
}

#include "nibbles.wgsl"

fn add_block(block: Block, low: vec4i, high: vec4i, scale: f32, low_sum: i32, high_sum: i32, acc: vec4f) -> vec4f {
    let scaled = fma(block.scale * scale, vec4f(block.sub_scale * (low + high)), acc);
    return fma(block.least * scale, vec4f(block.sub_min * -(low_sum + high_sum)), scaled);
}
