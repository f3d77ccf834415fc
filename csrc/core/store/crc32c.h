// CRC-32C, the checksum of an expert's blob: Castagnoli polynomial 0x1EDC6F41, reflected, initial and final inversion
// (RFC 3720 appendix B.4). Every form gives the same number.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tmoe {

/** Of `bytes` at `data`, by the fastest form of this CPU. `crc` continues an earlier call: crc32c(b, crc32c(a)) is that of a and b together. */
uint32_t crc32c(const void* data, size_t bytes, uint32_t crc = 0);

/** Of two runs of bytes together, from the checksum of each. */
uint32_t crc32c_join(uint32_t first, uint32_t second, size_t second_bytes);

/** By tables, eight bytes at a time: what a CPU without the instruction uses. */
uint32_t crc32c_by_table(const void* data, size_t bytes, uint32_t crc = 0);

/** True where `crc32c` uses the CPU's instruction (SSE4.2, or the CRC extension of ARMv8). */
bool crc32c_has_instruction();

}  // namespace tmoe
