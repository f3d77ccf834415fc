// rms: the sum of squares that rms_norm.wgsl and heads.wgsl divide by, of 64 invocations' own sums.

var<workgroup> squares: array<f32, 64>;

/** Lanes l, l + 16, l + 32, l + 48 in order, then the tree 8-4-2-1. All invocations call it together, once. */
fn sum_of_squares(lane: u32, own: f32) -> f32 {
    squares[lane] = own;
    workgroupBarrier();
    if (lane < 16u) {
        squares[lane] = squares[lane] + squares[lane + 16u] + squares[lane + 32u] + squares[lane + 48u];
    }
    workgroupBarrier();
    var lanes: array<f32, 8>;
    for (var i = 0u; i < 8u; i++) {
        lanes[i] = squares[i] + squares[i + 8u];
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}
