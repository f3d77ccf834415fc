// SHA-256 (FIPS 180-4).
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace tmoe {

using Digest = std::array<uint8_t, 32>;

/** Lower-case hexadecimal digits. */
std::string hex(const Digest& digest);

/** True where `Sha256` uses the CPU's instructions: it has them, and TIERED_MOE_ISA is not `scalar`. The digests are the same. */
bool sha256_has_instruction();

/** One hash under way: any number of `update`, then `finish` once. */
class Sha256 {
  public:
    Sha256();
    void update(const void* data, size_t bytes);
    Digest finish();

  private:
    void blocks(const uint8_t* from, size_t count);

    uint32_t state_[8];
    uint8_t rest_[64];      // bytes of a block not complete yet
    uint64_t bytes_ = 0;
    bool instruction_;
};

Digest sha256(const void* data, size_t bytes);

}  // namespace tmoe
