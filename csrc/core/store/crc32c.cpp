#include "core/store/crc32c.h"

#include <cstring>

#include "core/prefetch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

namespace tmoe {

namespace {

constexpr uint32_t kPolynomial = 0x82f63b78u;  // 0x1EDC6F41 with its bits reversed

struct Tables {
    uint32_t at[8][256];
    constexpr Tables() : at{} {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t crc = i;
            for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? kPolynomial : 0);
            at[0][i] = crc;
        }
        for (uint32_t i = 0; i < 256; i++) {
            for (int slice = 1; slice < 8; slice++) at[slice][i] = (at[slice - 1][i] >> 8) ^ at[0][at[slice - 1][i] & 255];
        }
    }
};
constexpr Tables kTables;

uint32_t by_table(uint32_t crc, const uint8_t* from, size_t bytes) {
    const auto& t = kTables.at;
    for (; bytes >= 8; from += 8, bytes -= 8) {
        crc ^= static_cast<uint32_t>(from[0]) | static_cast<uint32_t>(from[1]) << 8 | static_cast<uint32_t>(from[2]) << 16 |
               static_cast<uint32_t>(from[3]) << 24;
        crc = t[7][crc & 255] ^ t[6][(crc >> 8) & 255] ^ t[5][(crc >> 16) & 255] ^ t[4][crc >> 24] ^ t[3][from[4]] ^ t[2][from[5]] ^
              t[1][from[6]] ^ t[0][from[7]];
    }
    for (; bytes > 0; from++, bytes--) crc = (crc >> 8) ^ t[0][(crc ^ *from) & 255];
    return crc;
}

// Zero bytes change the register by a linear map of its 32 bits; twice as many by its square.
constexpr size_t kPowers = 48;

/** The maps of 1, 2, 4, … zero bytes: what becomes of each bit. */
struct ZeroBytes {
    uint32_t at[kPowers][32];
    constexpr ZeroBytes() : at{} {
        for (uint32_t bit = 0; bit < 32; bit++) at[0][bit] = (uint32_t{1} << bit >> 8) ^ kTables.at[0][(uint32_t{1} << bit) & 255];
        for (size_t power = 1; power < kPowers; power++) {
            for (uint32_t bit = 0; bit < 32; bit++) at[power][bit] = apply(at[power - 1], at[power - 1][bit]);
        }
    }
    static constexpr uint32_t apply(const uint32_t (&map)[32], uint32_t crc) {
        uint32_t out = 0;
        for (uint32_t bit = 0; bit < 32; bit++) {
            if (crc >> bit & 1) out ^= map[bit];
        }
        return out;
    }
};
constexpr ZeroBytes kZeroBytes;

#if defined(__x86_64__) || defined(__aarch64__)

// The instruction has a latency of three and a throughput of one a cycle: three runs side by side, joined by shifting the earlier
// ones over the bytes that follow them.
constexpr size_t kRunPower = 12, kRun = size_t{1} << kRunPower;

/** The map of `kRun` zero bytes, as a table for each byte of the register. */
struct Shift {
    uint32_t at[4][256];
    constexpr Shift() : at{} {
        for (uint32_t byte = 0; byte < 4; byte++) {
            for (uint32_t value = 0; value < 256; value++) at[byte][value] = ZeroBytes::apply(kZeroBytes.at[kRunPower], value << 8 * byte);
        }
    }
};
constexpr Shift kShift;

inline uint32_t shifted(uint32_t crc) {
    return kShift.at[0][crc & 255] ^ kShift.at[1][(crc >> 8) & 255] ^ kShift.at[2][(crc >> 16) & 255] ^ kShift.at[3][crc >> 24];
}

#if defined(__x86_64__)
#define TMOE_CRC_TARGET __attribute__((target("sse4.2")))
TMOE_CRC_TARGET inline uint64_t eight(uint64_t crc, const uint8_t* from) {
    uint64_t word;
    memcpy(&word, from, sizeof word);
    return _mm_crc32_u64(crc, word);
}
TMOE_CRC_TARGET inline uint32_t one(uint32_t crc, uint8_t byte) { return _mm_crc32_u8(crc, byte); }

bool has_instruction() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_SSE4_2) != 0;
}
#else
#define TMOE_CRC_TARGET __attribute__((target("+crc")))
TMOE_CRC_TARGET inline uint64_t eight(uint64_t crc, const uint8_t* from) {
    uint64_t word;
    memcpy(&word, from, sizeof word);
    return __crc32cd(static_cast<uint32_t>(crc), word);
}
TMOE_CRC_TARGET inline uint32_t one(uint32_t crc, uint8_t byte) { return __crc32cb(crc, byte); }

bool has_instruction() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & (1ul << 7)) != 0;  // HWCAP_CRC32
#else
    return true;  // every Apple CPU of this architecture has it
#endif
}
#endif

TMOE_CRC_TARGET uint32_t by_instruction(uint32_t crc, const uint8_t* from, size_t bytes) {
    while (bytes >= 3 * kRun) {
        uint64_t a = crc, b = 0, c = 0;
        const uint8_t* next = bytes >= 6 * kRun ? from + 3 * kRun : from;
        for (size_t line = 0; line < kRun; line += 64) {
            for (size_t run = 0; run < 3; run++) prefetch_line(next + run * kRun + line);  // runs are too short for the CPU to foresee
            for (size_t i = line; i < line + 64; i += 8) {
                a = eight(a, from + i);
                b = eight(b, from + kRun + i);
                c = eight(c, from + 2 * kRun + i);
            }
        }
        crc = shifted(shifted(static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b)) ^ static_cast<uint32_t>(c);
        from += 3 * kRun;
        bytes -= 3 * kRun;
    }
    for (; bytes >= 8; from += 8, bytes -= 8) crc = static_cast<uint32_t>(eight(crc, from));
    for (; bytes > 0; from++, bytes--) crc = one(crc, *from);
    return crc;
}

#else
bool has_instruction() { return false; }
uint32_t by_instruction(uint32_t crc, const uint8_t* from, size_t bytes) { return by_table(crc, from, bytes); }
#endif

}  // namespace

uint32_t crc32c_by_table(const void* data, size_t bytes, uint32_t crc) {
    return ~by_table(~crc, static_cast<const uint8_t*>(data), bytes);
}

bool crc32c_has_instruction() {
    static const bool found = has_instruction();
    return found;
}

uint32_t crc32c(const void* data, size_t bytes, uint32_t crc) {
    if (!crc32c_has_instruction()) return crc32c_by_table(data, bytes, crc);
    return ~by_instruction(~crc, static_cast<const uint8_t*>(data), bytes);
}

uint32_t crc32c_join(uint32_t first, uint32_t second, size_t second_bytes) {
    for (size_t power = 0; power < kPowers && second_bytes >> power != 0; power++) {
        if (second_bytes >> power & 1) first = ZeroBytes::apply(kZeroBytes.at[power], first);
    }
    return first ^ second;
}

}  // namespace tmoe
