#include "cpu/isa_prelude.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include "cpu/vec_neon.h"
#include "cpu/kernels_simd.h"

namespace tmoe {
const Kernels* kernels_neon() {
    static constexpr Kernels table = table_of(Isa::Neon);
    return &table;
}
}  // namespace tmoe
#else
namespace tmoe {
const Kernels* kernels_neon() { return nullptr; }
}  // namespace tmoe
#endif
