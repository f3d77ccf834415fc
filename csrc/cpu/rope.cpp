#include "cpu/rope.h"

#include "core/memory.h"

namespace tmoe {

Status rope(const Context& context, const RopeArgs& a) {
    const size_t half = a.table.rotary_dim() / 2;
    Buffer angles;
    TMOE_RETURN_IF_ERROR(angles.allocate(context.pool.threads() * 2 * half * sizeof(float)));
    const bool done = context.pool.for_each(a.tokens, context.cancel, [&](size_t token, size_t worker) {
        float* cos = angles.as<float>() + worker * 2 * half;
        a.table.fill(a.positions[token], cos, cos + half);
        context.kernels.rope(a.x + token * a.heads * a.head_dim, a.heads, a.head_dim, 2 * half, cos, cos + half, a.pairs);
    });
    return done ? Status() : Status(StatusCode::CANCELLED, "rope was cancelled");
}

}  // namespace tmoe
