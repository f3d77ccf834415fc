// 16 lanes on NEON (AArch64): four 128-bit quarters. No optional extension is needed.
#pragma once
#include "cpu/vec_folds.h"

namespace tmoe {
namespace {

struct Vec : LaneFolds<Vec> {
    static constexpr size_t kTileGroups = 1, kTileTokens = 2;
    static constexpr size_t kAttendSums = 4;

    struct F {
        float32x4_t v[4];
    };
    struct I {
        int32x4_t v[4];
    };
    struct W {
        uint8x16_t v[4];
    };

    template <class T, class Fn> static inline T make(Fn fn) { return {{fn(0), fn(1), fn(2), fn(3)}}; }

    static inline F set1(float x) {
        return make<F>([&](int) { return vdupq_n_f32(x); });
    }
    static inline F load(const float* p) {
        return make<F>([&](int i) { return vld1q_f32(p + 4 * i); });
    }
    static inline void store(float* p, F a) {
        for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.v[i]);
    }
    static inline F fma(F a, F b, F c) {
        return make<F>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
    }
    static inline F add(F a, F b) {
        return make<F>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
    }
    static inline F sub(F a, F b) {
        return make<F>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
    }
    static inline F mul(F a, F b) {
        return make<F>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
    }
    static inline F div(F a, F b) {
        return make<F>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
    }
    static inline F max(F a, F b) {  // a > b ? a : b, as on x86, also for signed zeros
        return make<F>([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
    }
    static inline F min(F a, F b) {
        return make<F>([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
    }

    static inline F load_f16(const uint16_t* p) {
        return make<F>([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
    }
    static inline void store_f16(uint16_t* p, F a) {
        for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
    }
    static inline F load_bf16(const uint16_t* p) {
        return make<F>([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
    }

    static inline I iset1(int32_t x) {
        return make<I>([&](int) { return vdupq_n_s32(x); });
    }
    static inline I iload(const int32_t* p) {
        return make<I>([&](int i) { return vld1q_s32(p + 4 * i); });
    }
    static inline void istore(int32_t* p, I a) {
        for (int i = 0; i < 4; i++) vst1q_s32(p + 4 * i, a.v[i]);
    }
    static inline I iload_i8(const int8_t* p) {
        const int8x16_t bytes = vld1q_s8(p);
        const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
        return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
                 vmovl_s16(vget_high_s16(high))}};
    }
    static inline void istore_i8(int8_t* p, I a) {
        const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
        const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
        vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    }
    static inline I iadd(I a, I b) {
        return make<I>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
    }
    static inline I imul(I a, I b) {
        return make<I>([&](int i) { return vmulq_s32(a.v[i], b.v[i]); });
    }
    static inline I iand(I a, I b) {
        return make<I>([&](int i) { return vandq_s32(a.v[i], b.v[i]); });
    }
    static inline I imax(I a, I b) {
        return make<I>([&](int i) { return vmaxq_s32(a.v[i], b.v[i]); });
    }
    template <int n> static inline I shl(I a) {
        return make<I>([&](int i) { return vshlq_n_s32(a.v[i], n); });
    }
    template <int n> static inline I sra(I a) {
        return make<I>([&](int i) { return vshrq_n_s32(a.v[i], n); });
    }
    static inline F to_float(I a) {
        return make<F>([&](int i) { return vcvtq_f32_s32(a.v[i]); });
    }
    static inline I round_to_int(F a) {
        return make<I>([&](int i) { return vcvtnq_s32_f32(a.v[i]); });
    }
    static inline I bits(F a) {
        return make<I>([&](int i) { return vreinterpretq_s32_f32(a.v[i]); });
    }
    static inline F from_bits(I a) {
        return make<F>([&](int i) { return vreinterpretq_f32_s32(a.v[i]); });
    }

    static inline W load_bytes(const uint8_t* p) {
        return make<W>([&](int i) { return vld1q_u8(p + 16 * i); });
    }
    static inline W low_nibbles(W a) {
        return make<W>([&](int i) { return vandq_u8(a.v[i], vdupq_n_u8(15)); });
    }
    static inline W high_nibbles(W a) {
        return make<W>([&](int i) { return vshrq_n_u8(a.v[i], 4); });
    }
    /** table[n] for each nibble n, one a byte. */
    static inline W look_up(const uint8_t (&table)[16], W nibbles) {
        return make<W>([&](int i) { return vqtbl1q_u8(vld1q_u8(table), nibbles.v[i]); });
    }
    /** The bits of each byte of `a` from `from` on, moved to bit 4 on; those that `mask` has are joined to the low nibbles of `low`. */
    template <int from, int mask> static inline W join_high_bits(W low, W a) {
        return make<W>([&](int i) {
            const uint8x16_t field = vandq_u8(vshlq_u8(a.v[i], vdupq_n_s8(4 - from)), vdupq_n_u8(mask));
            return vorrq_u8(low.v[i], field);
        });
    }
    static inline I dot4_small(I acc, W w, const int8_t* a) {
        const int8x16_t x = four(a);
        return make<I>([&](int i) { return accumulate(acc.v[i], vreinterpretq_s8_u8(w.v[i]), x); });
    }
    /** Any bytes: w = (w - 128) + 128, the second part being 128 times the sum of the four. */
    static inline I dot4(I acc, W w, const int8_t* a) {
        const int8x16_t x = four(a);
        const int32x4_t offset = vdupq_n_s32(128 * (a[0] + a[1] + a[2] + a[3]));
        return make<I>([&](int i) {
            const int8x16_t centred = vreinterpretq_s8_u8(veorq_u8(w.v[i], vdupq_n_u8(0x80)));
            return accumulate(vaddq_s32(acc.v[i], offset), centred, x);
        });
    }

  private:
    static inline int8x16_t four(const int8_t* a) {
        int32_t bytes;
        memcpy(&bytes, a, 4);
        return vreinterpretq_s8_s32(vdupq_n_s32(bytes));
    }
    static inline int32x4_t accumulate(int32x4_t acc, int8x16_t w, int8x16_t x) {
        const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
        const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(w), vget_high_s8(x)));
        return vaddq_s32(acc, vpaddq_s32(low, high));
    }
};

/** Exact sum of products of 24-bit integers. */
inline int64_t dot_i64(const int32_t* a, const int32_t* b, size_t n) {
    int64x2_t even = vdupq_n_s64(0), odd = even;
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const int32x4_t x = vld1q_s32(a + i), y = vld1q_s32(b + i);
        even = vmlal_s32(even, vget_low_s32(x), vget_low_s32(y));
        odd = vmlal_s32(odd, vget_high_s32(x), vget_high_s32(y));
    }
    int64_t sum = vaddvq_s64(vaddq_s64(even, odd));
    for (; i < n; i++) sum += static_cast<int64_t>(a[i]) * b[i];
    return sum;
}

}  // namespace
}  // namespace tmoe
