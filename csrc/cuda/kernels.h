// The kernel-level interface on a CUDA device: calls.h around one workspace.
#pragma once
#include <memory>

#include "core/kernel_device.h"
#include "cuda/calls.h"

namespace tmoe {
namespace cuda {

class CudaKernels : public KernelDevice {
  public:
    explicit CudaKernels(int ordinal) : ordinal_(ordinal) {}
    Status rms_norm(const RmsNormArgs& a) override { return with([&](Workspace& w) { return cuda::rms_norm(w, a); }); }
    Status rope(const RopeArgs& a) override { return with([&](Workspace& w) { return cuda::rope(w, a); }); }
    Status attention(const AttentionArgs& a) override { return with([&](Workspace& w) { return cuda::attention(w, a); }); }
    Status embed(const EmbedArgs& a) override { return with([&](Workspace& w) { return cuda::embed(w, a); }); }
    Status quantize(DType type, const float* x, size_t rows, size_t columns, uint8_t* out) override {
        return with([&](Workspace& w) { return cuda::quantize(w, type, x, rows, columns, out); });
    }
    Status dequantize(const RawMatrix& from, float* out) override { return with([&](Workspace& w) { return cuda::dequantize(w, from, out); }); }
    Status matmul(const MatrixView& weight, const float* x, size_t count, float* out) override {
        return with([&](Workspace& w) { return cuda::matmul(w, weight, x, count, out); });
    }
    Status expert_matmul(const ExpertMatmulArgs& a) override { return with([&](Workspace& w) { return cuda::expert_matmul(w, a); }); }
    Status route(const RouteArgs& a) override { return with([&](Workspace& w) { return cuda::route(w, a); }); }
    Status dispatch(const DispatchArgs& a) override { return with([&](Workspace& w) { return cuda::dispatch(w, a); }); }
    Status combine(const CombineArgs& a) override { return with([&](Workspace& w) { return cuda::combine(w, a); }); }
    Status all_to_all_pack(const AllToAllArgs& a) override { return with([&](Workspace& w) { return cuda::all_to_all_pack(w, a); }); }
    Status all_to_all_unpack(const AllToAllArgs& a) override { return with([&](Workspace& w) { return cuda::all_to_all_unpack(w, a); }); }
    Status sample(const float* logits, size_t vocab, const SamplingParams& params, uint64_t position, Sampled& out) override {
        return with([&](Workspace& w) { return cuda::sample(w, logits, vocab, params, position, out); });
    }

  private:
    /** The workspace is opened by the first call, on the thread that makes them all. */
    template <class Fn> Status with(Fn call) {
        if (!workspace_) {
            auto made = std::make_unique<Workspace>();
            TMOE_RETURN_IF_ERROR(made->open(ordinal_));
            workspace_ = std::move(made);
        }
        return call(*workspace_);
    }

    int ordinal_;
    std::unique_ptr<Workspace> workspace_;
};

}  // namespace cuda
}  // namespace tmoe
