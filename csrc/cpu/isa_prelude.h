// Everything that an isa_*.cpp needs from outside, included before its target region so that no shared inline function is
// compiled for an instruction set that the machine may lack.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "core/prefetch.h"
#include "cpu/kernels.h"
#include "quant/blocks.h"

namespace tmoe {

/** One per isa_*.cpp; null where the build or the architecture has none. CPU support is checked by the caller. */
const Kernels* kernels_scalar_soft();
const Kernels* kernels_scalar_fma();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_neon();

}  // namespace tmoe
