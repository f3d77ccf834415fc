// 16 lanes as plain arrays: the portable form of the vector type. The compiler may vectorise the loops; every operation is
// elementwise and correctly rounded, so that cannot change a bit.
#pragma once
#include "cpu/vec_folds.h"

namespace tmoe {
namespace {

struct Vec : LaneFolds<Vec> {
    static constexpr size_t kTileGroups = 1, kTileTokens = 2;
    static constexpr size_t kAttendSums = 1;

    struct F {
        float v[16];
    };
    struct I {
        int32_t v[16];
    };
    struct W {
        uint8_t v[64];
    };

    template <class T, class Fn> static inline T make(Fn fn) {
        T out;
        for (int i = 0; i < 16; i++) out.v[i] = fn(i);
        return out;
    }
    static inline F set1(float x) {
        return make<F>([&](int) { return x; });
    }
    static inline F load(const float* p) {
        F out;
        memcpy(out.v, p, 64);
        return out;
    }
    static inline void store(float* p, const F& a) { memcpy(p, a.v, 64); }
    static inline F fma(const F& a, const F& b, const F& c) {
        return make<F>([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
    }
    static inline F add(const F& a, const F& b) {
        return make<F>([&](int i) { return a.v[i] + b.v[i]; });
    }
    static inline F sub(const F& a, const F& b) {
        return make<F>([&](int i) { return a.v[i] - b.v[i]; });
    }
    static inline F mul(const F& a, const F& b) {
        return make<F>([&](int i) { return a.v[i] * b.v[i]; });
    }
    static inline F div(const F& a, const F& b) {
        return make<F>([&](int i) { return a.v[i] / b.v[i]; });
    }
    static inline F max(const F& a, const F& b) {
        return make<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
    }
    static inline F min(const F& a, const F& b) {
        return make<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
    }

    static inline F load_f16(const uint16_t* p) {
        return make<F>([&](int i) { return f16_to_f32(p[i]); });
    }
    static inline void store_f16(uint16_t* p, const F& a) {
        for (int i = 0; i < 16; i++) p[i] = f32_to_f16(a.v[i]);
    }
    static inline F load_bf16(const uint16_t* p) {
        return make<F>([&](int i) { return bf16_to_f32(p[i]); });
    }

    static inline I iset1(int32_t x) {
        return make<I>([&](int) { return x; });
    }
    static inline I iload(const int32_t* p) {
        I out;
        memcpy(out.v, p, 64);
        return out;
    }
    static inline void istore(int32_t* p, const I& a) { memcpy(p, a.v, 64); }
    static inline I iload_i8(const int8_t* p) {
        return make<I>([&](int i) { return static_cast<int32_t>(p[i]); });
    }
    static inline void istore_i8(int8_t* p, const I& a) {
        for (int i = 0; i < 16; i++) p[i] = static_cast<int8_t>(a.v[i]);
    }
    static inline I iadd(const I& a, const I& b) {
        return make<I>([&](int i) { return a.v[i] + b.v[i]; });
    }
    static inline I imul(const I& a, const I& b) {
        return make<I>([&](int i) { return a.v[i] * b.v[i]; });
    }
    static inline I iand(const I& a, const I& b) {
        return make<I>([&](int i) { return a.v[i] & b.v[i]; });
    }
    static inline I imax(const I& a, const I& b) {
        return make<I>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
    }
    template <int n> static inline I shl(const I& a) {
        return make<I>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << n); });
    }
    template <int n> static inline I sra(const I& a) {
        return make<I>([&](int i) { return a.v[i] >> n; });
    }
    static inline F to_float(const I& a) {
        return make<F>([&](int i) { return static_cast<float>(a.v[i]); });
    }
    static inline I round_to_int(const F& a) {  // |a| < 2^22: adding 1.5 · 2^23 rounds to nearest even; larger are integers already
        return make<I>([&](int i) {
            const float x = a.v[i];
            if (x > -4194304.0f && x < 4194304.0f) {
                const float shifted = x + 12582912.0f;
                return static_cast<int32_t>(shifted - 12582912.0f);
            }
            const double wide = static_cast<double>(x) + 6755399441055744.0;
            return static_cast<int32_t>(wide - 6755399441055744.0);
        });
    }
    static inline I bits(const F& a) {
        I out;
        memcpy(&out, &a, 64);
        return out;
    }
    static inline F from_bits(const I& a) {
        F out;
        memcpy(&out, &a, 64);
        return out;
    }

    static inline W load_bytes(const uint8_t* p) {
        W out;
        memcpy(out.v, p, 64);
        return out;
    }
    template <class Fn> static inline W each_byte(Fn fn) {
        W out;
        for (int i = 0; i < 64; i++) out.v[i] = static_cast<uint8_t>(fn(i));
        return out;
    }
    static inline W low_nibbles(const W& a) {
        return each_byte([&](int i) { return a.v[i] & 15; });
    }
    static inline W high_nibbles(const W& a) {
        return each_byte([&](int i) { return a.v[i] >> 4; });
    }
    /** table[n] for each nibble n, one a byte. */
    static inline W look_up(const uint8_t (&table)[16], const W& nibbles) {
        return each_byte([&](int i) { return table[nibbles.v[i]]; });
    }
    /** The bits of each byte of `a` from `from` on, moved to bit 4 on; those that `mask` has are joined to the low nibbles of `low`. */
    template <int from, int mask> static inline W join_high_bits(const W& low, const W& a) {
        return each_byte([&](int i) { return low.v[i] | (((a.v[i] >> from) << 4) & mask); });
    }
    static inline I dot4_small(const I& acc, const W& w, const int8_t* a) { return dot4(acc, w, a); }
    static inline I dot4(const I& acc, const W& w, const int8_t* a) {
        return make<I>([&](int i) {
            const uint8_t* r = w.v + 4 * i;
            return acc.v[i] + r[0] * a[0] + r[1] * a[1] + r[2] * a[2] + r[3] * a[3];
        });
    }
};

/** Exact sum of products of 24-bit integers. */
inline int64_t dot_i64(const int32_t* a, const int32_t* b, size_t n) {
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += static_cast<int64_t>(a[i]) * b[i];
    return sum;
}

}  // namespace
}  // namespace tmoe
