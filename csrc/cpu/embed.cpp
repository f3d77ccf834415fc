#include "cpu/embed.h"

#include <cstring>

#include "quant/blocks.h"

namespace tmoe {

Status check_embed(const EmbedArgs& a) {
    for (size_t i = 0; i < a.count; i++) {
        if (a.ids[i] >= 0 && static_cast<size_t>(a.ids[i]) < a.table.rows) continue;
        return Status(StatusCode::VALIDATION_ERROR, format("token id %d is outside the vocabulary of %zu", a.ids[i], a.table.rows))
            .with("token", a.ids[i]);
    }
    return {};
}

namespace {

void look_up(const EmbedArgs& a, size_t i) {
    const size_t bytes = row_bytes(a.table.type, a.table.columns);
    decode_row(a.table.type, a.table.raw + static_cast<size_t>(a.ids[i]) * bytes, a.out + i * a.table.columns, a.table.columns);
}

}  // namespace

Status embed(const Context& context, const EmbedArgs& a) {
    TMOE_RETURN_IF_ERROR(check_embed(a));
    const bool done = context.pool.for_each(a.count, context.cancel, [&](size_t i, size_t) { look_up(a, i); });
    return done ? Status() : Status(StatusCode::CANCELLED, "embed was cancelled");
}

Status embed_ref(const EmbedArgs& a) {
    TMOE_RETURN_IF_ERROR(check_embed(a));
    for (size_t i = 0; i < a.count; i++) look_up(a, i);
    return {};
}

}  // namespace tmoe
