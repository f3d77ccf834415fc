// Elementwise functions: the polynomials and the order of csrc/cpu/math_ref.h.
// WGSL's fma() may round twice, its division may be off by 2.5 ulp and denormals may become zero, so results are within some ulp of the
// CPU's and not its bits (test/kernels/tolerance.ts). Arguments are finite: callers look at the bits of what they read.

/** e^x: x = n ln 2 + r, Taylor to r^7, times 2^n in two factors. */
fn exp_of(value: f32) -> f32 {
    let x = max(min(value, 89.0), -104.0);
    let n = round(x * 1.44269504);
    let r = fma(n, 2.12194440e-4, fma(n, -0.693359375, x));
    var p = fma(1.0 / 5040.0, r, 1.0 / 720.0);
    p = fma(p, r, 1.0 / 120.0);
    p = fma(p, r, 1.0 / 24.0);
    p = fma(p, r, 1.0 / 6.0);
    p = fma(p, r, 0.5);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    let half = i32(n) >> 1u;
    return p * power_of_two(half) * power_of_two(i32(n) - half);
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp_of(-x));
}

/** 2^e for -126 <= e <= 127. */
fn power_of_two(e: i32) -> f32 {
    return bitcast<f32>(u32(e + 127) << 23u);
}

fn silu(x: f32) -> f32 {
    return x / (1.0 + exp_of(-x));
}

/** By bits, because WGSL may take it for granted that NaN and infinity do not occur. */
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}
