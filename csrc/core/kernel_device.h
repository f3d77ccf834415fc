// The seam for a device that runs single kernels on the caller's host memory: the contracts of csrc/cpu, the bits too. The kernel-level
// interface has checked sizes; what the kernels themselves check, and the errors, are as on the CPU, and the device's besides.
#pragma once
#include "core/sampling.h"
#include "cpu/attention.h"
#include "cpu/dispatch.h"
#include "cpu/embed.h"
#include "cpu/expert_matmul.h"
#include "cpu/rms_norm.h"
#include "cpu/rope.h"
#include "cpu/route_hser.h"

namespace tmoe {

/** Everything is called on the backend's queue. GPU_VRAM_EXHAUSTED, CUDA_DEVICE_FAILED. */
class KernelDevice {
  public:
    virtual ~KernelDevice() = default;
    virtual Status rms_norm(const RmsNormArgs& args) = 0;
    virtual Status rope(const RopeArgs& args) = 0;
    virtual Status attention(const AttentionArgs& args) = 0;
    virtual Status embed(const EmbedArgs& args) = 0;
    virtual Status quantize(DType type, const float* x, size_t rows, size_t columns, uint8_t* out) = 0;
    virtual Status dequantize(const RawMatrix& from, float* out) = 0;
    /** out[i] = W · x[i]; `weight` is packed. */
    virtual Status matmul(const MatrixView& weight, const float* x, size_t count, float* out) = 0;
    virtual Status expert_matmul(const ExpertMatmulArgs& args) = 0;
    virtual Status route(const RouteArgs& args) = 0;
    virtual Status dispatch(const DispatchArgs& args) = 0;
    virtual Status combine(const CombineArgs& args) = 0;
    virtual Status all_to_all_pack(const AllToAllArgs& args) = 0;
    virtual Status all_to_all_unpack(const AllToAllArgs& args) = 0;
    virtual Status sample(const float* logits, size_t vocab, const SamplingParams& params, uint64_t position, Sampled& out) = 0;
};

}  // namespace tmoe
