// Folds of 16 integer lanes, for vector types that have no instruction for them. Include inside the target region, before vec_*.h.
#pragma once

namespace tmoe {
namespace {

template <class V> struct LaneFolds {
    template <class I> static inline int32_t lanes_max(const I& a) {
        alignas(64) int32_t lanes[16];
        V::istore(lanes, a);
        int32_t most = lanes[0];
        for (int i = 1; i < 16; i++) most = lanes[i] > most ? lanes[i] : most;
        return most;
    }
    template <class I> static inline int32_t lanes_sum(const I& a) {
        alignas(64) int32_t lanes[16];
        V::istore(lanes, a);
        int32_t sum = 0;
        for (int i = 0; i < 16; i++) sum += lanes[i];
        return sum;
    }
};

}  // namespace
}  // namespace tmoe
