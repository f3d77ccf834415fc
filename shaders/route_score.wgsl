// What routes rank by where exact products alone do not decide: the words of csrc/cpu/route_score.h.
#include "int64.wgsl"

const most_bias_shift = 38;
const one_q30 = 0x40000000u;

/** Bits that a bias moves up in the unit of a score with this exponent; beyond 38 the score is cut down to the least unit in which the bias fits. */
fn bias_shift(exponent: i32, bias_exponent: i32) -> i32 {
    return bias_exponent - 23 - exponent;
}

/** The exponent of `biased`. */
fn biased_exponent(exponent: i32, shift: i32) -> i32 {
    return exponent + max(shift, most_bias_shift) - most_bias_shift;
}

/** score + bias. */
fn biased(score: vec2<u32>, bias: i32, shift: i32) -> vec2<u32> {
    let drop = max(shift, most_bias_shift) - most_bias_shift;
    let up = shift - drop;
    var moved = i64_of(bias);
    if (up >= 0) { moved = u64_shl(moved, u32(up)); } else { moved = i64_rounded(moved, u32(-up)); }
    return i64_add(i64_rounded(score, u32(drop)), moved);
}

/** |sum| · 2^(exponent + 27) to the nearest integer, at most 2^32 - 1. */
fn magnitude_q27(sum: vec2<u32>, exponent: i32) -> u32 {
    var m = sum;
    if ((m.y & 0x80000000u) != 0u) { m = i64_negated(m); }
    let shift = exponent + 27;
    if (shift <= 0) {
        m = u64_rounded(m, u32(-shift));
    } else if (any(u64_shr(m, 64u - min(u32(shift), 64u)) != vec2<u32>())) {
        return 0xffffffffu;
    } else {
        m = u64_shl(m, u32(shift));
    }
    return select(m.x, 0xffffffffu, m.y != 0u);
}

/** The sigmoid of logit = sum · 2^exponent, in Q30. */
fn sigmoid_q30(sum: vec2<u32>, exponent: i32) -> u32 {
    var power = array<u32, 12>(2147483648u, 1488522236u, 515882496u, 119194166u, 20654775u, 2863360u, 330788u, 32755u, 2838u, 219u, 15u, 1u);
    let y = u32_product(magnitude_q27(sum, exponent), 3098164009u);
    let n = y.y >> 26u;
    let f = (y.y << 6u) | (y.x >> 26u);
    var p = 0u;
    for (var k = 12u; k > 0u; k--) { p = power[k - 1u] - u32_product(f, p).y; }
    var e = 0u;
    if (n <= 30u) { e = ((p >> n) + 1u) >> 1u; }
    // 2^60 / (2^30 + e), bit by bit, the last to the nearest
    let divisor = one_q30 + e;
    var s = select(0u, 1u, e == 0u);
    var rest = select(one_q30, 0u, e == 0u);
    for (var bit = 0u; bit < 30u; bit++) {
        rest = rest << 1u;
        s = s << 1u;
        if (rest >= divisor) {
            rest -= divisor;
            s += 1u;
        }
    }
    if ((rest << 1u) >= divisor) { s += 1u; }
    return select(s, one_q30 - s, (sum.y & 0x80000000u) != 0u);
}
