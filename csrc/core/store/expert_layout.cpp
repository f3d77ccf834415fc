#include "core/store/expert_layout.h"

#include "core/memory.h"
#include "quant/repack.h"

namespace tmoe {

namespace {

constexpr size_t kPartAlignment = 64;  // the kernels load whole vectors

/** Places a part behind `end` and moves `end` behind it. */
ExpertPart place(DType type, size_t rows, size_t columns, size_t& end) {
    const size_t offset = round_up(end, kPartAlignment), bytes = packed_bytes(type, rows, columns);
    end = offset + bytes;
    return {type, rows, columns, offset, bytes};
}

}  // namespace

ExpertLayout expert_layout(DType gate, DType up, DType down, size_t width, size_t hidden) {
    ExpertLayout layout;
    size_t end = 0;
    layout.gate = place(gate, hidden, width, end);
    layout.up = place(up, hidden, width, end);
    layout.down = place(down, width, hidden, end);
    layout.bytes = round_up(end, kBlobAlignment);
    return layout;
}

}  // namespace tmoe
