// Naive twins of dispatch, combine and the all-to-all: the definitions, searched for instead of sorted.
#include <cmath>

#include "cpu/dispatch.h"

namespace tmoe {

Status dispatch_ref(const DispatchArgs& a) {
    TMOE_RETURN_IF_ERROR(check_dispatch_ids("dispatch", a.ids, a.tokens, a.k, a.experts));
    uint32_t row = 0;
    for (size_t e = 0; e < a.experts; e++) {
        a.offsets[e] = row;
        for (size_t slot = 0; slot < a.tokens * a.k; slot++) {
            if (a.ids[slot] != static_cast<int32_t>(e)) continue;
            a.slots[row] = static_cast<uint32_t>(slot);
            a.rows[slot] = row++;
        }
    }
    a.offsets[a.experts] = row;
    return {};
}

Status combine_ref(const CombineArgs& a) {
    TMOE_RETURN_IF_ERROR(check_combine(a));
    for (size_t t = 0; t < a.tokens; t++) {
        for (size_t i = 0; i < a.width; i++) {
            float sum = 0;
            for (size_t e = 0; e < a.experts; e++) {
                for (size_t slot = t * a.k; slot < (t + 1) * a.k; slot++) {
                    if (a.ids[slot] != static_cast<int32_t>(e)) continue;
                    sum = std::fma(a.weights[slot], a.values[a.rows[slot] * a.width + i], sum);
                }
            }
            float& out = a.out[t * a.width + i];
            out = a.add ? out + sum : sum;
        }
    }
    return {};
}

Status all_to_all_pack_ref(const AllToAllArgs& a) {
    TMOE_RETURN_IF_ERROR(check_all_to_all("allToAllPack", a));
    for (size_t rank = 0; rank < a.ranks; rank++) a.rank_rows[rank] = 0;
    for (size_t e = 0; e < a.experts; e++) {
        size_t rank = 0, end = 0;  // the rank whose range of experts ends after e
        for (;; rank++) {
            end += a.experts / a.ranks + (rank < a.experts % a.ranks ? 1 : 0);
            if (e < end) break;
        }
        a.rank_rows[rank] += a.offsets[e + 1] - a.offsets[e];
    }
    for (size_t row = 0; row < a.rows; row++) {
        for (size_t i = 0; i < a.width; i++) a.to[row * a.width + i] = a.from[a.slots[row] / a.k * a.width + i];
    }
    return {};
}

Status all_to_all_unpack_ref(const AllToAllArgs& a) {
    TMOE_RETURN_IF_ERROR(check_all_to_all("allToAllUnpack", a));
    for (size_t row = 0; row < a.rows; row++) {
        for (size_t i = 0; i < a.width; i++) a.to[a.slots[row] * a.width + i] = a.from[row * a.width + i];
    }
    return {};
}

}  // namespace tmoe
