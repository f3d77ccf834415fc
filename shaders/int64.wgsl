// Integers of 64 bits as two words (low, high), two's complement where they are signed: WGSL has none of its own.

fn i64_of(x: i32) -> vec2<u32> {
    return vec2<u32>(bitcast<u32>(x), bitcast<u32>(x >> 31u));
}

fn i64_add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn i64_negated(a: vec2<u32>) -> vec2<u32> {
    return i64_add(~a, vec2<u32>(1u, 0u));
}

fn i64_less(a: vec2<u32>, b: vec2<u32>) -> bool {
    if (a.y != b.y) { return bitcast<i32>(a.y) < bitcast<i32>(b.y); }
    return a.x < b.x;
}

fn u64_less(a: vec2<u32>, b: vec2<u32>) -> bool {
    if (a.y != b.y) { return a.y < b.y; }
    return a.x < b.x;
}

/** Any n: nothing is left from 64 on. */
fn u64_shl(a: vec2<u32>, n: u32) -> vec2<u32> {
    if (n == 0u) { return a; }
    if (n >= 64u) { return vec2<u32>(0u, 0u); }
    if (n >= 32u) { return vec2<u32>(0u, a.x << (n - 32u)); }
    return vec2<u32>(a.x << n, (a.y << n) | (a.x >> (32u - n)));
}

fn u64_shr(a: vec2<u32>, n: u32) -> vec2<u32> {
    if (n == 0u) { return a; }
    if (n >= 64u) { return vec2<u32>(0u, 0u); }
    if (n >= 32u) { return vec2<u32>(a.y >> (n - 32u), 0u); }
    return vec2<u32>((a.x >> n) | (a.y << (32u - n)), a.y >> n);
}

fn u64_bits(a: vec2<u32>) -> u32 {
    return 64u - select(countLeadingZeros(a.y), 32u + countLeadingZeros(a.x), a.y == 0u);
}

/** a / 2^n to the nearest integer, ties to even. */
fn u64_rounded(a: vec2<u32>, n: u32) -> vec2<u32> {
    if (n == 0u) { return a; }
    if (n > 64u) { return vec2<u32>(0u, 0u); }
    let whole = u64_shr(a, n);
    let rest = i64_add(a, i64_negated(u64_shl(whole, n)));
    let half = u64_shl(vec2<u32>(1u, 0u), n - 1u);
    let up = u64_less(half, rest) || (all(half == rest) && (whole.x & 1u) != 0u);
    return i64_add(whole, vec2<u32>(select(0u, 1u, up), 0u));
}

/** The same of a signed number. */
fn i64_rounded(a: vec2<u32>, n: u32) -> vec2<u32> {
    if ((a.y & 0x80000000u) == 0u) { return u64_rounded(a, n); }
    return i64_negated(u64_rounded(i64_negated(a), n));
}

/** a · b. */
fn u32_product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let high = (a >> 16u) * (b >> 16u);
    let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
    return vec2<u32>((other << 16u) | (low & 0xffffu), high + (middle >> 16u) + (other >> 16u));
}

/** Bits of f32(f64(a) · 2^exponent), rounded twice as the CPU does: to the 53 bits of a double, then to a float. */
fn i64_to_f32_bits(a: vec2<u32>, exponent: i32) -> u32 {
    let sign = a.y & 0x80000000u;
    var m = a;
    if (sign != 0u) { m = i64_negated(a); }
    if (all(m == vec2<u32>(0u, 0u))) { return 0u; }
    let lost = max(u64_bits(m), 53u) - 53u;
    m = u64_rounded(m, lost);
    let unit = exponent + i32(lost);
    // 24 bits are left, or fewer below 2^-126, where the unit is 2^-149
    let drop = max(i32(u64_bits(m)) - 24, -149 - unit);
    if (drop > 0) { m = u64_rounded(m, u32(drop)); } else { m = u64_shl(m, u32(-drop)); }
    let last = unit + drop;
    if (last > 104) { return sign | 0x7f800000u; }
    return sign | (m.x + (u32(last + 149) << 23u));
}
