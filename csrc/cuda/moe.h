// The operations of a mixture of experts on the device: route, dispatch, combine, all-to-all. The structs of csrc/cpu with the device's
// pointers; what the host can check of them (sizes, masks, ids) it has checked.
#pragma once
#include "cpu/dispatch.h"
#include "cpu/route_hser.h"
#include "cuda/dense.h"

namespace tmoe {
namespace cuda {

/**
 * Every form. Of `args`: positions, outputs and scratch are [tokens] as on the CPU (`probabilities` and, with biases or groups, `ranks` too);
 * `enabled` [experts] or null;
 * masks: [tokens] device pointers or null. `hser`: a copy with device pointers, of RouteForm::Hser.
 */
Status route(Stream& stream, const RouteArgs& args, const HserRouting& hser);

struct DispatchCall {
    DispatchArgs args;
    uint32_t* counts;   ///< scratch [experts]
};
Status dispatch(Stream& stream, const DispatchCall& call);
Status combine(Stream& stream, const CombineArgs& args);
/** `rank_rows` is the host's affair. */
Status all_to_all_pack(Stream& stream, const AllToAllArgs& args);
Status all_to_all_unpack(Stream& stream, const AllToAllArgs& args);

}  // namespace cuda
}  // namespace tmoe
