// Elementwise functions and reductions in the one order of the arithmetic contract. Written over Vec; include after vec_*.h.
#pragma once

// Compiles all that a function calls into it: GCC would give up, and what is called passes every sum through memory. Not under the sanitizers,
// with which that takes minutes.
#if defined(__SANITIZE_ADDRESS__)
#define TMOE_FLATTEN
#else
#define TMOE_FLATTEN __attribute__((flatten))
#endif

namespace tmoe {
namespace {

/** fn(0), …, fn(N - 1), each compiled by itself: GCC keeps arrays in registers only where every index is a constant. */
template <class Fn, size_t... i> inline void repeat(Fn&& fn, std::index_sequence<i...>) {
    (fn(std::integral_constant<size_t, i>{}), ...);
}
template <size_t N, class Fn> inline void repeat(Fn&& fn) { repeat(fn, std::make_index_sequence<N>{}); }

/** 2^e for -126 ≤ e ≤ 127. */
inline Vec::F power_of_two(Vec::I e) { return Vec::from_bits(Vec::shl<23>(Vec::iadd(e, Vec::iset1(127)))); }

/** e^x for finite or infinite x: n = round(x / ln 2), r = x - n ln 2 in two parts, Taylor to r^7 (error below 2^-26), times 2^n. */
inline Vec::F exp_lanes(Vec::F x) {
    using V = Vec;
    x = V::max(V::min(x, V::set1(89.0f)), V::set1(-104.0f));
    const V::I n = V::round_to_int(V::mul(x, V::set1(1.44269504f)));
    const V::F steps = V::to_float(n);
    V::F r = V::fma(steps, V::set1(-0.693359375f), x);
    r = V::fma(steps, V::set1(2.12194440e-4f), r);
    V::F p = V::set1(1.0f / 5040);
    p = V::fma(p, r, V::set1(1.0f / 720));
    p = V::fma(p, r, V::set1(1.0f / 120));
    p = V::fma(p, r, V::set1(1.0f / 24));
    p = V::fma(p, r, V::set1(1.0f / 6));
    p = V::fma(p, r, V::set1(0.5f));
    p = V::fma(p, r, V::set1(1.0f));
    p = V::fma(p, r, V::set1(1.0f));
    const V::I half = V::sra<1>(n);  // 2^n in two factors, so that results below 2^-126 are rounded once
    const V::I rest = V::iadd(n, V::imul(half, V::iset1(-1)));
    return V::mul(V::mul(p, power_of_two(half)), power_of_two(rest));
}

/** Sum of 16 lanes by the tree 8-4-2-1. */
inline float tree_sum(Vec::F lanes) {
    alignas(64) float a[16];
    Vec::store(a, lanes);
    for (int width = 8; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) a[i] = a[i] + a[i + width];
    }
    return a[0];
}

/** The n < 16 floats at p, then `fill`. */
inline Vec::F load_part(const float* p, size_t n, float fill) {
    alignas(64) float a[16];
    for (size_t i = 0; i < 16; i++) a[i] = i < n ? p[i] : fill;
    return Vec::load(a);
}
inline void store_part(float* p, size_t n, Vec::F value) {
    alignas(64) float a[16];
    Vec::store(a, value);
    memcpy(p, a, n * sizeof(float));
}
inline Vec::F load_some(const float* p, size_t n, float fill) { return n >= 16 ? Vec::load(p) : load_part(p, n, fill); }
inline void store_some(float* p, size_t n, Vec::F value) {
    if (n >= 16) return Vec::store(p, value);
    store_part(p, n, value);
}

inline float greatest_lane(Vec::F lanes) {
    alignas(64) float a[16];
    Vec::store(a, lanes);
    float most = a[0];
    for (size_t i = 1; i < 16; i++) most = a[i] > most ? a[i] : most;
    return most;
}

/** The greatest, which is the same in any order. */
inline float max_of(const float* x, size_t n) {
    Vec::F lanes = Vec::set1(x[0]);
    for (size_t i = 0; i < n; i += 16) lanes = Vec::max(load_some(x + i, n - i, x[0]), lanes);
    return greatest_lane(lanes);
}

inline bool block_maxima(const float* x, size_t n, float* out) {
    const Vec::F zero = Vec::set1(0.0f);
    Vec::F finite = zero;   // nothing but a value that is not finite makes it anything else
    for (size_t first = 0; first < n; first += kMaximaBlock) {
        const size_t count = n - first < kMaximaBlock ? n - first : kMaximaBlock;
        Vec::F most = Vec::set1(x[first]);
        for (size_t i = 0; i < count; i += 16) {
            const Vec::F part = load_some(x + first + i, count - i, x[first]);
            most = Vec::max(part, most);
            finite = Vec::fma(part, zero, finite);
        }
        out[first / kMaximaBlock] = greatest_lane(most);
    }
    return tree_sum(finite) == 0.0f;
}

/** p[i] = exp(x[i] - max) from `first` < 16 on, returns their sum; lane = i mod 16. Lanes past n keep what they have, those before `first` are 0. */
inline float exp_and_sum(float* x, size_t n, float most, size_t first = 0) {
    const Vec::F shift = Vec::set1(most);
    Vec::F sum = Vec::set1(0.0f);
    for (size_t i = 0; i < first; i++) x[i] = most;
    for (size_t i = 0; i < n; i += 16) {
        const size_t left = n - i;
        Vec::F e = exp_lanes(Vec::sub(load_some(x + i, left, most), shift));
        store_some(x + i, left, e);
        if (i < first) {
            for (size_t hidden = 0; hidden < first; hidden++) x[hidden] = 0.0f;
            e = load_some(x, left, 0.0f);
        } else if (left < 16) {
            e = load_part(x + i, left, 0.0f);
        }
        sum = Vec::add(sum, e);
    }
    return tree_sum(sum);
}

inline float exp_one(float x) {
    alignas(64) float lanes[16];
    Vec::store(lanes, exp_lanes(Vec::set1(x)));
    return lanes[0];
}

inline void softmax(float* x, size_t n) {
    const float sum = exp_and_sum(x, n, max_of(x, n));
    const Vec::F divisor = Vec::set1(sum);
    for (size_t i = 0; i < n; i += 16) store_some(x + i, n - i, Vec::div(load_some(x + i, n - i, 0.0f), divisor));
}

inline void sigmoid(float* x, size_t n) {
    const Vec::F one = Vec::set1(1.0f), zero = Vec::set1(0.0f);
    for (size_t i = 0; i < n; i += 16) {
        const Vec::F v = load_some(x + i, n - i, 0.0f);
        store_some(x + i, n - i, Vec::div(one, Vec::add(one, exp_lanes(Vec::sub(zero, v)))));
    }
}

inline void silu_mul(const float* gate, const float* up, size_t n, float* out) {
    const Vec::F one = Vec::set1(1.0f), zero = Vec::set1(0.0f);
    for (size_t i = 0; i < n; i += 16) {
        const Vec::F g = load_some(gate + i, n - i, 0.0f), u = load_some(up + i, n - i, 0.0f);
        const Vec::F silu = Vec::div(g, Vec::add(one, exp_lanes(Vec::sub(zero, g))));
        store_some(out + i, n - i, Vec::mul(silu, u));
    }
}

inline void clamped_swiglu(const float* gate, const float* up, size_t n, float* out) {
    using V = Vec;
    const V::F one = V::set1(1.0f), most = V::set1(7.0f), least = V::set1(-7.0f);
    for (size_t i = 0; i < n; i += 16) {
        // the second operand is what min and max give where one is NaN
        const V::F g = V::min(most, load_some(gate + i, n - i, 0.0f));
        const V::F u = V::min(most, V::max(least, load_some(up + i, n - i, 0.0f)));
        const V::F swish = V::div(g, V::add(one, exp_lanes(V::mul(g, V::set1(-1.702f)))));
        store_some(out + i, n - i, V::mul(swish, V::add(u, one)));
    }
}

inline void sigmoid_scale(float gate, const float* x, size_t n, float* out) {
    const Vec::F one = Vec::set1(1.0f), sigmoid = Vec::div(one, Vec::add(one, exp_lanes(Vec::sub(Vec::set1(0.0f), Vec::set1(gate)))));
    for (size_t i = 0; i < n; i += 16) store_some(out + i, n - i, Vec::mul(sigmoid, load_some(x + i, n - i, 0.0f)));
}

inline void combine_row(const float* const* rows, const float* weights, size_t slots, size_t n, bool add, float* out) {
    for (size_t i = 0; i < n; i += 16) {
        Vec::F sum = Vec::set1(0.0f);
        for (size_t s = 0; s < slots; s++) sum = Vec::fma(Vec::set1(weights[s]), load_some(rows[s] + i, n - i, 0.0f), sum);
        if (add) sum = Vec::add(load_some(out + i, n - i, 0.0f), sum);
        store_some(out + i, n - i, sum);
    }
}

inline bool rms_norm(const float* x, const float* weight, size_t n, float epsilon, float* out) {
    Vec::F squares = Vec::set1(0.0f);
    for (size_t i = 0; i < n; i += 16) {
        const Vec::F v = load_some(x + i, n - i, 0.0f);
        squares = Vec::fma(v, v, squares);
    }
#ifdef TMOE_TEST_REORDERED_SUM
    // A mutant of one instruction set for `npm run determinism -- --mutant`: the sum is taken in another order.
    alignas(64) float lanes[16];
    Vec::store(lanes, squares);
    float sum = 0;
    for (int i = 0; i < 16; i++) sum = sum + lanes[i];
#else
    const float sum = tree_sum(squares);
#endif
    const Vec::F scale = Vec::set1(1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + epsilon));
    for (size_t i = 0; i < n; i += 16) {
        const Vec::F v = load_some(x + i, n - i, 0.0f), w = load_some(weight + i, n - i, 0.0f);
        store_some(out + i, n - i, Vec::mul(Vec::mul(v, scale), w));
    }
    return sum <= 3.402823466e38f;  // false for infinity and NaN
}

}  // namespace
}  // namespace tmoe
