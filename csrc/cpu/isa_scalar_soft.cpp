// The scalar kernels on a CPU without an FMA instruction: the C library's fmaf, correctly rounded, so the same bits.
#include "cpu/isa_prelude.h"

#include "cpu/vec_scalar.h"
#include "cpu/kernels_simd.h"

namespace tmoe {
const Kernels* kernels_scalar_soft() {
    static constexpr Kernels table = table_of(Isa::Scalar);
    return &table;
}
}  // namespace tmoe
