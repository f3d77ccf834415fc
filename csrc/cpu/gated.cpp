#include "cpu/gated.h"

#include <cmath>

#include "cpu/math_ref.h"

namespace tmoe {

Status gated(const Context& context, const GatedArgs& a, const NonFinite& bad) {
    const bool done = context.pool.for_each(a.rows, context.cancel, [&](size_t row, size_t) {
        const size_t at = row * a.n;
        if (!a.by_row) return context.kernels.silu_mul(a.gate + at, a.x + at, a.n, a.x + at);
        if (!std::isfinite(a.gate[row])) bad.mark(row);
        context.kernels.sigmoid_scale(a.gate[row], a.x + at, a.n, a.x + at);
    });
    return done ? Status() : Status(StatusCode::CANCELLED, "gated was cancelled");
}

Status gated_ref(const GatedArgs& a) {
    for (size_t row = 0; row < a.rows; row++) {
        for (size_t i = row * a.n; i < (row + 1) * a.n; i++) {
            const float factor = a.by_row ? sigmoid_ref(a.gate[row]) : silu_ref(a.gate[i]);
            a.x[i] = factor * a.x[i];
        }
    }
    return {};
}

}  // namespace tmoe
