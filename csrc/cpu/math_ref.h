// The elementwise functions of the contract for one float, step by step as math_simd.h does them for 16.
#pragma once
#include <cmath>
#include <cstddef>

namespace tmoe {

/** e^x: x = n ln 2 + r, Taylor to r^7, times 2^n in two factors. */
inline float exp_ref(float x) {
    x = x < 89.0f ? x : 89.0f;
    x = x > -104.0f ? x : -104.0f;
    const float n = std::nearbyint(x * 1.44269504f);
    float r = std::fma(n, -0.693359375f, x);
    r = std::fma(n, 2.12194440e-4f, r);
    float p = 1.0f / 5040;
    for (float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = std::fma(p, r, term);
    const int half = static_cast<int>(std::floor(n / 2)), rest = static_cast<int>(n) - half;
    return std::ldexp(1.0f, rest) * (p * std::ldexp(1.0f, half));
}

inline float sigmoid_ref(float x) { return 1.0f / (1.0f + exp_ref(0.0f - x)); }

inline float silu_ref(float x) { return x / (1.0f + exp_ref(0.0f - x)); }

/** gate · sigmoid(1.702 gate) · (up + 1), gate at most 7 and up within ±7. NaN stays. */
inline float clamped_swiglu_ref(float gate, float up) {
    gate = 7.0f < gate ? 7.0f : gate;
    up = -7.0f > up ? -7.0f : up;
    up = 7.0f < up ? 7.0f : up;
    return gate / (1.0f + exp_ref(gate * -1.702f)) * (up + 1.0f);
}

/** In place on x[first … n): exact max, exp, sum by lanes (index mod 16, then the tree 8-4-2-1), the sink last. Returns the sum. */
inline float exp_and_sum_ref(float* x, size_t n, size_t first = 0, const float* sink = nullptr) {
    float most = x[first];
    for (size_t i = first + 1; i < n; i++) most = x[i] > most ? x[i] : most;
    if (sink && *sink > most) most = *sink;
    float lanes[16] = {0};
    for (size_t i = first; i < n; i++) {
        x[i] = exp_ref(x[i] - most);
        lanes[i % 16] = lanes[i % 16] + x[i];
    }
    for (int width = 8; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) lanes[i] = lanes[i] + lanes[i + width];
    }
    return sink ? lanes[0] + exp_ref(*sink - most) : lanes[0];
}

inline void softmax_ref(float* x, size_t n) {
    const float sum = exp_and_sum_ref(x, n);
    for (size_t i = 0; i < n; i++) x[i] = x[i] / sum;
}

}  // namespace tmoe
