#include <cmath>

#include "cpu/rope.h"

namespace tmoe {

Status rope_ref(const RopeArgs& a) {
    const size_t half = a.table.rotary_dim() / 2;
    std::vector<float> cos(half), sin(half);
    for (size_t token = 0; token < a.tokens; token++) {
        a.table.fill(a.positions[token], cos.data(), sin.data());
        for (size_t head = 0; head < a.heads; head++) {
            float* x = a.x + (token * a.heads + head) * a.head_dim;
            for (size_t i = 0; i < half; i++) {
                float& first = a.pairs == RopePairs::Neox ? x[i] : x[2 * i];
                float& second = a.pairs == RopePairs::Neox ? x[half + i] : x[2 * i + 1];
                const float p = first, q = second;
                first = std::fma(p, cos[i], -(q * sin[i]));
                second = std::fma(q, cos[i], p * sin[i]);
            }
        }
    }
    return {};
}

}  // namespace tmoe
