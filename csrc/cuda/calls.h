// Every operation on host memory, with the contracts of csrc/cpu: uploaded, computed on the device, given back. For the kernel-level API and
// the self-test; the executor (executor.h) keeps its data on the device.
#pragma once
#include "cpu/attention.h"
#include "cpu/dispatch.h"
#include "cpu/embed.h"
#include "cpu/rms_norm.h"
#include "cpu/rope.h"
#include "cpu/route_hser.h"
#include "core/sampling.h"
#include "cuda/matmul.h"
#include "cuda/workspace.h"

namespace tmoe {
namespace cuda {

/** RUNTIME_NAN_DETECTED {token}. */
inline Status not_finite(const char* what, size_t row) {
    return Status(StatusCode::RUNTIME_NAN_DETECTED, format("%s: row %zu has a value that is not finite", what, row)).with("token", static_cast<double>(row));
}

Status rms_norm(Workspace& w, const RmsNormArgs& args);
Status rope(Workspace& w, const RopeArgs& args);
Status attention(Workspace& w, const AttentionArgs& args);
Status embed(Workspace& w, const EmbedArgs& args);
Status quantize(Workspace& w, DType type, const float* x, size_t rows, size_t columns, uint8_t* out);
Status dequantize(Workspace& w, const RawMatrix& from, float* out);
/** out[i] = W · x[i]; `weight` is packed. */
Status matmul(Workspace& w, const MatrixView& weight, const float* x, size_t count, float* out, MatmulForm form = MatmulForm::Auto);
Status expert_matmul(Workspace& w, const ExpertMatmulArgs& args, MatmulForm form = MatmulForm::Auto);
Status route(Workspace& w, const RouteArgs& args);
Status dispatch(Workspace& w, const DispatchArgs& args);
Status combine(Workspace& w, const CombineArgs& args);
Status all_to_all_pack(Workspace& w, const AllToAllArgs& args);
Status all_to_all_unpack(Workspace& w, const AllToAllArgs& args);
Status sample(Workspace& w, const float* logits, size_t vocab, const SamplingParams& params, uint64_t position, Sampled& out);

}  // namespace cuda
}  // namespace tmoe
