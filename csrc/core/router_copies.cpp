#include "core/router_copies.h"

#include <algorithm>
#include <cmath>

#include "quant/blocks.h"
#include "quant/repack.h"

namespace tmoe {

namespace {

constexpr DType kType = DType::F16;
constexpr uint64_t kBlockEnd = 64;  // a block of memory is rounded up to as much

}  // namespace

Status RouterCopies::reserve(size_t width, const RoutingShape& shape, size_t tokens, size_t at_once) {
    width_ = width;
    experts_ = shape.experts;
    routers_.resize(shape.layers);
    lookouts_.resize(at_once);
    for (Lookout& lookout : lookouts_) {
        TMOE_RETURN_IF_ERROR(lookout.states.allocate(tokens * width * sizeof(float)));
        TMOE_RETURN_IF_ERROR(lookout.scores.allocate(tokens * shape.experts * sizeof(float)));
    }
    return {};
}

uint64_t RouterCopies::bytes(const Plan& plan, size_t tokens, size_t at_once) {
    uint64_t copies = 0, states = 0, scores = 0;
    for (const PlanOp& op : plan.ops) {
        if (op.kind != OpKind::Route) continue;
        const size_t experts = static_cast<size_t>(plan.tensors[op.weight].shape[1]), width = plan.buffer_widths[op.in];
        copies += packed_bytes(kType, experts, width) + kBlockEnd;
        states = std::max<uint64_t>(states, tokens * width * sizeof(float));
        scores = std::max<uint64_t>(scores, tokens * experts * sizeof(float));
    }
    return copies > 0 ? copies + at_once * (states + scores + 2 * kBlockEnd) : 0;
}

Status RouterCopies::copy(size_t layer, const RouterView& router) {
    const size_t row = row_bytes(kType, width_);
    TMOE_RETURN_IF_ERROR(routers_[layer].allocate(packed_bytes(kType, experts_, width_)));
    std::vector<float> weights(width_);
    std::vector<uint8_t> rows(kLanes * row);
    for (size_t first = 0; first < experts_; first += kLanes) {
        const size_t count = std::min(kLanes, experts_ - first);
        for (size_t i = 0; i < count; i++) {
            const int32_t* from = router.weights + (first + i) * width_;
            for (size_t c = 0; c < width_; c++) weights[c] = std::ldexp(static_cast<float>(from[c]), router.exponent - 23);
            uint8_t* to = rows.data() + i * row;
            if (!encode_row(kType, weights.data(), to, width_)) std::fill_n(to, row, uint8_t{0});  // never guessed
        }
        pack_group(kType, rows.data(), count, width_, routers_[layer].data() + first / kLanes * packed_group_bytes(kType, width_));
    }
    return {};
}

void RouterCopies::score(const Kernels& kernels, size_t layer, size_t at, size_t tokens) {
    ActivationView a;
    a.columns = a.value_stride = width_;
    a.values = states(at);
    const MatrixView router = {kType, experts_, width_, routers_[layer].data()};
    kernels.matmul(router, a, {tokens, nullptr, lookouts_[at].scores.as<float>(), experts_, false, 0, (experts_ + kLanes - 1) / kLanes});
}

}  // namespace tmoe
