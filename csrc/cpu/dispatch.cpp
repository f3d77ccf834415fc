#include "cpu/dispatch.h"

#include <algorithm>
#include <cstring>

#include "core/memory.h"

namespace tmoe {

namespace {

constexpr size_t kMaxK = 256;

Status invalid_expert(const char* op, size_t slot, size_t k, int32_t id, const char* why) {
    return Status(StatusCode::ROUTING_INVALID_EXPERT,
                  format("%s: token %zu, slot %zu names expert %d, %s", op, slot / k, slot % k, id, why))
        .with("token", static_cast<double>(slot / k))
        .with("slot", static_cast<double>(slot % k))
        .with("expertId", id);
}

}  // namespace

Status check_dispatch_ids(const char* op, const int32_t* ids, size_t tokens, size_t k, size_t experts) {
    if (k == 0 || k > kMaxK) return Status(StatusCode::VALIDATION_ERROR, format("%s: k = %zu; 1 to %zu", op, k, kMaxK));
    for (size_t slot = 0; slot < tokens * k; slot++) {
        const int32_t id = ids[slot];
        if (id < 0 || static_cast<size_t>(id) >= experts) return invalid_expert(op, slot, k, id, "which does not exist");
        for (size_t before = slot - slot % k; before < slot; before++) {
            if (ids[before] == id) return invalid_expert(op, slot, k, id, "which it has chosen already");
        }
    }
    return {};
}

Status check_all_to_all(const char* op, const AllToAllArgs& a) {
    const auto bad = [&](const char* what) { return Status(StatusCode::VALIDATION_ERROR, format("%s: %s", op, what)); };
    if (a.ranks == 0 || a.k == 0 || a.rows != a.tokens * a.k) return bad("ranks and k must be positive, rows = tokens · k");
    if (a.offsets[0] != 0 || a.offsets[a.experts] != a.rows) return bad("offsets must run from 0 to the number of rows");
    for (size_t e = 0; e < a.experts; e++) {
        if (a.offsets[e] > a.offsets[e + 1]) return bad("offsets must not decrease");
    }
    Buffer seen;  // a slot that stands twice would leave another's row of the output as it was
    TMOE_RETURN_IF_ERROR(seen.allocate(a.rows));
    for (size_t row = 0; row < a.rows; row++) {
        if (a.slots[row] >= a.rows) return bad("a slot is out of range");
        if (seen.data()[a.slots[row]]++) return bad("a slot stands twice");
    }
    return {};
}

Status check_combine(const CombineArgs& a) {
    TMOE_RETURN_IF_ERROR(check_dispatch_ids("combine", a.ids, a.tokens, a.k, a.experts));
    for (size_t slot = 0; slot < a.tokens * a.k; slot++) {
        if (a.rows[slot] >= a.tokens * a.k) return Status(StatusCode::VALIDATION_ERROR, format("combine: row %u is out of range", a.rows[slot]));
    }
    return {};
}

Status dispatch(const DispatchArgs& a) {
    TMOE_RETURN_IF_ERROR(check_dispatch_ids("dispatch", a.ids, a.tokens, a.k, a.experts));
    const size_t slots = a.tokens * a.k;
    memset(a.offsets, 0, (a.experts + 1) * sizeof(uint32_t));
    for (size_t slot = 0; slot < slots; slot++) a.offsets[a.ids[slot] + 1]++;
    for (size_t e = 0; e < a.experts; e++) a.offsets[e + 1] += a.offsets[e];
    // Slots are placed in ascending order; offsets[e] serves as the cursor and is moved back afterwards.
    for (size_t slot = 0; slot < slots; slot++) {
        const uint32_t row = a.offsets[a.ids[slot]]++;
        a.slots[row] = static_cast<uint32_t>(slot);
        a.rows[slot] = row;
    }
    for (size_t e = a.experts; e > 0; e--) a.offsets[e] = a.offsets[e - 1];
    a.offsets[0] = 0;
    return {};
}

Status combine(const Context& context, const CombineArgs& a) {
    TMOE_RETURN_IF_ERROR(check_combine(a));
    const bool done = context.pool.for_each(a.tokens, context.cancel, [&](size_t token, size_t) {
        uint32_t order[kMaxK];
        const float* values[kMaxK];
        float weights[kMaxK];
        const size_t first = token * a.k;
        for (size_t s = 0; s < a.k; s++) order[s] = static_cast<uint32_t>(first + s);
        std::sort(order, order + a.k, [&](uint32_t x, uint32_t y) { return a.ids[x] < a.ids[y]; });
        for (size_t s = 0; s < a.k; s++) {
            values[s] = a.values + a.rows[order[s]] * a.width;
            weights[s] = a.weights[order[s]];
        }
        context.kernels.combine_row(values, weights, a.k, a.width, a.add, a.out + token * a.width);
    });
    if (!done) return Status(StatusCode::CANCELLED, "combine was cancelled");
    return {};
}

void count_rank_rows(const AllToAllArgs& a) {
    const size_t share = a.experts / a.ranks, more = a.experts % a.ranks;
    size_t expert = 0;
    for (size_t rank = 0; rank < a.ranks; rank++) {
        const size_t end = expert + share + (rank < more ? 1 : 0);
        a.rank_rows[rank] = a.offsets[end] - a.offsets[expert];
        expert = end;
    }
}

Status all_to_all_pack(const AllToAllArgs& a) {
    TMOE_RETURN_IF_ERROR(check_all_to_all("allToAllPack", a));
    count_rank_rows(a);
    for (size_t row = 0; row < a.rows; row++) {
        memcpy(a.to + row * a.width, a.from + a.slots[row] / a.k * a.width, a.width * sizeof(float));
    }
    return {};
}

Status all_to_all_unpack(const AllToAllArgs& a) {
    TMOE_RETURN_IF_ERROR(check_all_to_all("allToAllUnpack", a));
    for (size_t row = 0; row < a.rows; row++) {
        memcpy(a.to + static_cast<size_t>(a.slots[row]) * a.width, a.from + row * a.width, a.width * sizeof(float));
    }
    return {};
}

}  // namespace tmoe
