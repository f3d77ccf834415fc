// six_bits: the sub-scales and minimums of Q4_K and Q5_K (csrc/quant/repack.h), from the three words a row that hold them.

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
