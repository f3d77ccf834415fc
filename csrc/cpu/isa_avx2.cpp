#include "cpu/isa_prelude.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi2")
#include "cpu/vec_avx2.h"
#include "cpu/kernels_simd.h"
#pragma GCC pop_options

namespace tmoe {
const Kernels* kernels_avx2() {
    static constexpr Kernels table = table_of(Isa::Avx2);
    return &table;
}
}  // namespace tmoe
#else
namespace tmoe {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace tmoe
#endif
