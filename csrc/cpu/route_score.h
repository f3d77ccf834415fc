// What routes rank by where exact products alone do not decide: a router's bias, a sigmoid, a bias for the selection. Integers only, the same
// words in shaders/route_score.wgsl.
//
// Router bias: 24-bit integers with one exponent, rounded once at load as router weights are. Score and bias are added in one unit: the score's,
// where the bias moved up by at most 38 bits is whole in it, so that the sum is exact and below 2^63. A bias finer than that unit is rounded to
// it; where a bias is more than 38 bits coarser (states near zero), the score is rounded to the least unit in which the bias fits.
//
// Sigmoid in Q30 of logit = sum · 2^exponent, with x = |logit| to the nearest 2^-27, at most 32 - 2^-27:
//   y = x · log2 e (rounded to 2^-31) in Q58, n its integer part, f its fraction cut to 32 bits
//   2^-f in Q31 = c0 - f (c1 - f (c2 - … c11)), ck = ln(2)^k / k! (Taylor), each product cut to 31 bits
//   e = 2^-f / 2^n to the nearest 2^-30 · s = 1 / (1 + e) to the nearest 2^-30 (halves up) · negative logits: 1 - s
// At most 2 units of 2^-30 from the true sigmoid, and monotone: a step of x changes 2^-f by more than the cuts do.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace tmoe {

/** Most bits that a bias is moved up by: 2^23 · 2^38 and the largest sum of products, 2^62, are below 2^63 together. */
inline constexpr int kMostBiasShift = 38;
inline constexpr int64_t kOneQ30 = int64_t{1} << 30;
/** Of a selection bias in Q30, 2^31 as a float: with a sigmoid, and twice, it stays below 2^63. */
inline constexpr int64_t kMostSelectionBias = int64_t{1} << 61;

/** m / 2^n to the nearest, ties to even; n ≥ 0, m ≤ 2^63. */
TMOE_HOST_DEVICE inline uint64_t rounded_down(uint64_t m, int n) {
    if (n == 0) return m;
    if (n > 64) return 0;
    const uint64_t whole = n == 64 ? 0 : m >> n, rest = n == 64 ? m : m - (whole << n), half = uint64_t{1} << (n - 1);
    return whole + (rest > half || (rest == half && (whole & 1) != 0));
}

TMOE_HOST_DEVICE inline uint64_t magnitude_of(int64_t x) { return x < 0 ? 0 - static_cast<uint64_t>(x) : static_cast<uint64_t>(x); }

TMOE_HOST_DEVICE inline int64_t rounded_shift(int64_t x, int n) {
    const auto m = static_cast<int64_t>(rounded_down(magnitude_of(x), n));
    return x < 0 ? -m : m;
}

/** How a score and a bias are added: logit = add(score, bias) · 2^exponent. */
struct BiasUnit {
    int exponent;      ///< of the sum
    int score_drop;    ///< bits that the score loses, ≥ 0
    int bias_shift;    ///< bits that the bias is moved up, at most kMostBiasShift; down where negative

    /** `exponent` of the exact score, `bias_exponent` as a router's: b = q · 2^(bias_exponent - 23). */
    TMOE_HOST_DEVICE static BiasUnit of(int exponent, int bias_exponent) {
        const int shift = bias_exponent - 23 - exponent, drop = shift > kMostBiasShift ? shift - kMostBiasShift : 0;
        return {exponent + drop, drop, shift - drop};
    }
    TMOE_HOST_DEVICE int64_t add(int64_t score, int32_t bias) const {
        const int64_t moved = bias_shift >= 0 ? bias * (int64_t{1} << bias_shift) : rounded_shift(bias, -bias_shift);
        return rounded_shift(score, score_drop) + moved;
    }
};

/** A finite selection bias in Q30, to the nearest, ties to even; ± 2^31 where it is beyond. */
inline int64_t selection_bias_of(float bias) {
    const double most = static_cast<double>(kMostSelectionBias), value = std::nearbyint(std::ldexp(static_cast<double>(bias), 30));
    return static_cast<int64_t>(value < -most ? -most : value > most ? most : value);
}

TMOE_HOST_DEVICE inline uint32_t high_product(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }

/** The sigmoid of logit = sum · 2^exponent, in Q30: 0 to 2^30. */
TMOE_HOST_DEVICE inline int64_t sigmoid_q30(int64_t sum, int exponent) {
    constexpr uint32_t kLog2E = 3098164009u;  // Q31
    const uint32_t power[] = {2147483648u, 1488522236u, 515882496u, 119194166u, 20654775u, 2863360u, 330788u, 32755u, 2838u, 219u, 15u, 1u};
    const int shift = exponent + 27;
    const uint64_t m = magnitude_of(sum);
    uint64_t x = UINT32_MAX;
    if (m == 0) {
        x = 0;
    } else if (shift <= 0) {
        x = rounded_down(m, -shift);
    } else if (shift < 32 && m < uint64_t{1} << (32 - shift)) {
        x = m << shift;
    }
    if (x > UINT32_MAX) x = UINT32_MAX;
    const uint64_t y = x * kLog2E;
    const auto n = static_cast<unsigned>(y >> 58);
    const auto f = static_cast<uint32_t>(y >> 26);
    uint32_t p = 0;
    for (int k = 12; k-- > 0;) p = power[k] - high_product(f, p);
    const uint32_t e = n > 30 ? 0 : ((p >> n) + 1) >> 1;
    const uint64_t divisor = (uint64_t{1} << 30) + e;
    const auto s = static_cast<int64_t>(((uint64_t{1} << 60) + divisor / 2) / divisor);
    return sum < 0 ? kOneQ30 - s : s;
}

}  // namespace tmoe
