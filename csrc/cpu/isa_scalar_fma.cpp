// The scalar kernels on a CPU with an FMA instruction.
#include "cpu/isa_prelude.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("fma")
#endif
#include "cpu/vec_scalar.h"
#include "cpu/kernels_simd.h"
#if defined(__x86_64__)
#pragma GCC pop_options
#endif

namespace tmoe {
const Kernels* kernels_scalar_fma() {
    static constexpr Kernels table = table_of(Isa::Scalar);
    return &table;
}
}  // namespace tmoe
