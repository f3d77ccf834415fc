// Activations to int8 and states to 24-bit integers. Written over Vec; include after math_simd.h.
#pragma once

namespace tmoe {
namespace {

constexpr int32_t kFiniteLimit = 0x7f800000;  // magnitude bits of infinity; above it NaN
constexpr int32_t kTinyLimit = 0x04000000;    // bits of 2^-119: below it 127 / amax would overflow, so the block is zero

inline bool quantise_row(const float* x, size_t n, ActivationBlock* out) {
    using V = Vec;
    const V::I magnitude = V::iset1(0x7fffffff);
    bool finite = true;
    for (size_t block = 0; block < n / kActBlock; block++) {
        const float* from = x + block * kActBlock;
        const V::F low = V::load(from), high = V::load(from + 16);
        const int32_t most = V::lanes_max(V::imax(V::iand(V::bits(low), magnitude), V::iand(V::bits(high), magnitude)));
        finite = finite && most < kFiniteLimit;
        const bool zero = most < kTinyLimit || most >= kFiniteLimit;
        float amax = 0;
        memcpy(&amax, &most, sizeof amax);
        const V::F inverse = V::set1(zero ? 0.0f : 127.0f / amax);
        const V::F nothing = V::set1(0.0f);  // not 0 · x: x may be infinite
        const V::I q0 = V::round_to_int(zero ? nothing : V::mul(low, inverse));
        const V::I q1 = V::round_to_int(zero ? nothing : V::mul(high, inverse));
        V::istore_i8(out[block].q, q0);
        V::istore_i8(out[block].q + 16, q1);
        const int32_t s0 = V::lanes_sum(q0), s1 = V::lanes_sum(q1);
        out[block].scale = zero ? 0.0f : amax / 127.0f;
        out[block].sum = -8 * (s0 + s1);
        out[block].sum16[0] = -32 * s0;
        out[block].sum16[1] = -32 * s1;
    }
    return finite;
}

inline int quantise_state(const float* x, size_t n, int32_t* q) {
    using V = Vec;
    const V::I magnitude = V::iset1(0x7fffffff);
    V::I most = V::iset1(0);
    for (size_t i = 0; i < n; i += 16) most = V::imax(most, V::iand(V::bits(load_some(x + i, n - i, 0.0f)), magnitude));
    const int32_t bits = V::lanes_max(most);
    int exponent = (bits >> 23) - 126;  // |x| < 2^exponent
    if (exponent < -103) exponent = -103;
    const bool finite = bits < kFiniteLimit;
    const int32_t scale_bits = finite ? (23 - exponent + 127) << 23 : 0;
    float scale = 0;
    memcpy(&scale, &scale_bits, sizeof scale);
    for (size_t i = 0; i < n; i += 16) {
        const size_t left = n - i;
        const V::F v = finite ? load_some(x + i, left, 0.0f) : V::set1(0.0f);
        const V::I rounded = V::round_to_int(V::mul(v, V::set1(scale)));
        if (left >= 16) {
            V::istore(q + i, rounded);
        } else {
            alignas(64) int32_t part[16];
            V::istore(part, rounded);
            memcpy(q + i, part, left * sizeof(int32_t));
        }
    }
    return exponent;
}

}  // namespace
}  // namespace tmoe
