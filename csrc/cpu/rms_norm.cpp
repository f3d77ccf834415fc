#include "cpu/rms_norm.h"

namespace tmoe {

Status rms_norm(const Context& context, const RmsNormArgs& a) {
    std::atomic<size_t> bad{a.rows};
    const bool done = context.pool.for_each(a.rows, context.cancel, [&](size_t row, size_t) {
        if (context.kernels.rms_norm(a.x + row * a.n, a.weight, a.n, a.epsilon, a.out + row * a.n)) return;
        size_t seen = bad;
        while (row < seen && !bad.compare_exchange_weak(seen, row)) {
        }
    });
    if (!done) return Status(StatusCode::CANCELLED, "rmsNorm was cancelled");
    if (bad == a.rows) return {};
    return Status(StatusCode::RUNTIME_NAN_DETECTED, format("rmsNorm: row %zu has no finite sum of squares", bad.load()))
        .with("token", static_cast<double>(bad.load()));
}

}  // namespace tmoe
