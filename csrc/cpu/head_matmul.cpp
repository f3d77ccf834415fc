#include "cpu/head_matmul.h"

#include <cstring>

#include "quant/blocks.h"

namespace tmoe {

namespace {

constexpr size_t kGroups = 8;   // row groups of one item

Status cancelled() { return Status(StatusCode::CANCELLED, "headMatmul was cancelled"); }

}  // namespace

Status head_matmul(const Context& context, const HeadMatmulArgs& a, ActivationBuffer& scratch, const NonFinite& bad) {
    const MatrixView& shape = a.weight.shape;
    const size_t from = shape.columns + a.carried, to = shape.rows + a.carried;
    const bool quantised = is_quantised(shape.type);
    // Head by head, a head's tokens one behind another: each head's product then reads rows that stand together.
    const bool ready = context.pool.for_each(a.tokens, context.cancel, [&](size_t t, size_t) {
        for (size_t head = 0; head < a.heads; head++) {
            const float* x = a.x + (t * a.heads + head) * from;
            if (quantised && !context.kernels.quantise_row(x, shape.columns, scratch.row(head * a.tokens + t, shape.columns))) bad.mark(t);
            memcpy(a.out + (t * a.heads + head) * to + shape.rows, x + shape.columns, a.carried * sizeof(float));
        }
    });
    if (!ready) return cancelled();
    const size_t groups = (shape.rows + kLanes - 1) / kLanes, parts = (groups + kGroups - 1) / kGroups;
    const bool done = context.pool.for_each(a.heads * parts, context.cancel, [&](size_t item, size_t) {
        const size_t head = item / parts, first = item % parts * kGroups, last = first + kGroups < groups ? first + kGroups : groups;
        ActivationView x;
        x.columns = shape.columns;
        x.values = a.x + head * from;
        x.value_stride = a.heads * from;
        if (quantised) x.blocks = scratch.row(head * a.tokens, shape.columns);
        context.kernels.matmul(a.weight.at(head), x, {a.tokens, nullptr, a.out + head * to + first * kLanes, a.heads * to, false, first, last});
    });
    return done ? Status() : cancelled();
}

Status head_matmul_ref(const HeadMatmulRefArgs& a) {
    const size_t from = a.weight.columns + a.carried, to = a.weight.rows + a.carried;
    for (size_t t = 0; t < a.tokens; t++) {
        for (size_t head = 0; head < a.heads; head++) {
            RawMatrix own = a.weight;
            own.raw += head * own.rows * row_bytes(own.type, own.columns);
            const float* x = a.x + (t * a.heads + head) * from;
            float* out = a.out + (t * a.heads + head) * to;
            if (!matmul_ref(own, x, 1, out).ok()) {
                return Status(StatusCode::RUNTIME_NAN_DETECTED, format("headMatmul: row %zu has a value that is not finite", t)).with("token", static_cast<double>(t));
            }
            memcpy(out + own.rows, x + own.columns, a.carried * sizeof(float));
        }
    }
    return {};
}

}  // namespace tmoe
