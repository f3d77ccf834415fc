// rms_norm: root mean square normalisation (Zhang and Sennrich, 2019).
// Sum of squares: lane = index mod 16, one fma chain per lane, then the tree 8-4-2-1; scale = 1 / sqrt(sum / n + epsilon).
#pragma once
#include "cpu/kernels.h"

namespace tmoe {

struct RmsNormArgs {
    const float* x;          ///< [rows][n]
    const float* weight;     ///< [n]
    size_t rows, n;
    float epsilon;           ///< ≥ 0
    float* out;              ///< [rows][n]; may be x
};
/** RUNTIME_NAN_DETECTED {token: the row} where a row's sum of squares is not finite; CANCELLED. */
Status rms_norm(const Context& context, const RmsNormArgs& args);
Status rms_norm_ref(const RmsNormArgs& args);

}  // namespace tmoe
