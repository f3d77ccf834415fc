#include "core/sha256.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace tmoe {

namespace {

// The first 32 bits of the fractions of the cube roots of the first 64 primes.
alignas(16) constexpr uint32_t kRounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
// Of the square roots of the first eight.
constexpr uint32_t kStart[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

uint32_t big_endian(const uint8_t* from) {
    return static_cast<uint32_t>(from[0]) << 24 | static_cast<uint32_t>(from[1]) << 16 | static_cast<uint32_t>(from[2]) << 8 | from[3];
}

void portable_blocks(uint32_t state[8], const uint8_t* from, size_t count) {
    for (; count > 0; count--, from += 64) {
        uint32_t w[64];
        for (int t = 0; t < 16; t++) w[t] = big_endian(from + 4 * t);
        for (int t = 16; t < 64; t++) {
            const uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
            const uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
            w[t] = w[t - 16] + s0 + w[t - 7] + s1;
        }
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
        for (int t = 0; t < 64; t++) {
            const uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + kRounds[t] + w[t];
            const uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            h = g, g = f, f = e, e = d + t1;
            d = c, c = b, b = a, a = t1 + t2;
        }
        const uint32_t add[8] = {a, b, c, d, e, f, g, h};
        for (int i = 0; i < 8; i++) state[i] += add[i];
    }
}

#if defined(__x86_64__)

bool has_instruction() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned sha = 1u << 29;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & bit_SSE4_1) == 0) return false;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & sha) != 0;
}

// The instruction wants the state as two vectors {a b e f} and {c d g h} (highest lane first) and does two rounds at a time.
__attribute__((target("sha,sse4.1"))) void instruction_blocks(uint32_t state[8], const uint8_t* from, size_t count) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const auto lane = [state](int i) { return static_cast<int>(state[i]); };
    __m128i abef = _mm_set_epi32(lane(0), lane(1), lane(4), lane(5));
    __m128i cdgh = _mm_set_epi32(lane(2), lane(3), lane(6), lane(7));
    for (; count > 0; count--, from += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; i++) w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i), swap);
        for (int i = 0; i < 16; i++) {
            __m128i& now = w[i & 3];
            const __m128i sum = _mm_add_epi32(now, _mm_load_si128(reinterpret_cast<const __m128i*>(kRounds) + i));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
            if (i >= 12) continue;
            const __m128i last = w[(i + 3) & 3];
            const __m128i part = _mm_add_epi32(_mm_sha256msg1_epu32(now, w[(i + 1) & 3]), _mm_alignr_epi8(last, w[(i + 2) & 3], 4));
            now = _mm_sha256msg2_epu32(part, last);
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    uint32_t low[4], high[4];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low), abef);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high), cdgh);
    const uint32_t out[8] = {low[3], low[2], high[3], high[2], low[1], low[0], high[1], high[0]};
    memcpy(state, out, sizeof out);
}

#else
bool has_instruction() { return false; }
void instruction_blocks(uint32_t state[8], const uint8_t* from, size_t count) { portable_blocks(state, from, count); }
#endif

}  // namespace

std::string hex(const Digest& digest) {
    static const char digits[] = "0123456789abcdef";
    std::string text;
    for (const uint8_t byte : digest) {
        text += digits[byte >> 4];
        text += digits[byte & 15];
    }
    return text;
}

bool sha256_has_instruction() {
    static const bool found = [] {
        const char* isa = getenv("TIERED_MOE_ISA");
        return (!isa || strcmp(isa, "scalar") != 0) && has_instruction();
    }();
    return found;
}

Sha256::Sha256() : instruction_(sha256_has_instruction()) { memcpy(state_, kStart, sizeof state_); }

void Sha256::blocks(const uint8_t* from, size_t count) {
    if (instruction_) {
        instruction_blocks(state_, from, count);
    } else {
        portable_blocks(state_, from, count);
    }
}

void Sha256::update(const void* data, size_t bytes) {
    const auto* from = static_cast<const uint8_t*>(data);
    const size_t held = static_cast<size_t>(bytes_ % 64);
    bytes_ += bytes;
    if (held > 0) {
        const size_t part = bytes < 64 - held ? bytes : 64 - held;
        memcpy(rest_ + held, from, part);
        from += part;
        bytes -= part;
        if (held + part < 64) return;
        blocks(rest_, 1);
    }
    blocks(from, bytes / 64);
    memcpy(rest_, from + bytes / 64 * 64, bytes % 64);
}

Digest Sha256::finish() {
    const uint64_t bits = bytes_ * 8;
    const uint8_t one = 0x80, zero[64] = {};
    update(&one, 1);
    update(zero, (120 - bytes_ % 64) % 64);
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    update(length, sizeof length);
    Digest digest;
    for (size_t i = 0; i < digest.size(); i++) digest[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
    return digest;
}

Digest sha256(const void* data, size_t bytes) {
    Sha256 hash;
    hash.update(data, bytes);
    return hash.finish();
}

}  // namespace tmoe
