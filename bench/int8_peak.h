// Dot products of bytes at the rate that registers alone allow: nothing but the instruction is measured, and 24 chains cover its latency.
#pragma once
#include <cstddef>

#if defined(__AVX512VNNI__)
#define TMOE_DOT(a) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #a "\n"
#define TMOE_DOTS TMOE_DOT(0) TMOE_DOT(1) TMOE_DOT(2) TMOE_DOT(3) TMOE_DOT(4) TMOE_DOT(5) TMOE_DOT(6) TMOE_DOT(7) TMOE_DOT(8) TMOE_DOT(9) TMOE_DOT(10) TMOE_DOT(11) \
    TMOE_DOT(12) TMOE_DOT(13) TMOE_DOT(14) TMOE_DOT(15) TMOE_DOT(16) TMOE_DOT(17) TMOE_DOT(18) TMOE_DOT(19) TMOE_DOT(20) TMOE_DOT(21) TMOE_DOT(22) TMOE_DOT(23)
constexpr bool kHasInt8Peak = true;
inline void int8_operations(size_t repeats) {
    for (size_t i = 0; i < repeats; i++) {
        __asm__ volatile(TMOE_DOTS TMOE_DOTS ::: "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10", "zmm11", "zmm12", "zmm13",
                         "zmm14", "zmm15", "zmm16", "zmm17", "zmm18", "zmm19", "zmm20", "zmm21", "zmm22", "zmm23");
    }
}
#else
constexpr bool kHasInt8Peak = false;
inline void int8_operations(size_t) {}
#endif
constexpr size_t kPeakRepeats = 100'000;
constexpr double kPeakOperations = 48.0 * 128 * kPeakRepeats;
