#include "cpu/isa_prelude.h"

#if defined(__x86_64__)
#include <immintrin.h>

// GCC 12 calls the undefined operand of its own AVX-512 intrinsics uninitialised.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2")
#include "cpu/vec_avx512.h"
#include "cpu/kernels_simd.h"
#pragma GCC pop_options

namespace tmoe {
const Kernels* kernels_avx512() {
    static constexpr Kernels table = table_of(Isa::Avx512);
    return &table;
}
}  // namespace tmoe
#else
namespace tmoe {
const Kernels* kernels_avx512() { return nullptr; }
}  // namespace tmoe
#endif
