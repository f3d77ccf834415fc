#include "core/model.h"
#include "cuda/kernels.h"
#include "cuda/model/device_model.h"

namespace tmoe {

namespace {

class CudaDevice : public BackendDevice {
  public:
    explicit CudaDevice(cuda::DeviceFacts facts) : facts_(std::move(facts)), kernels_(facts_.ordinal) {}
    std::string name() const override { return facts_.name; }
    Status create_model(Model& model, const LoadOptions& options, std::unique_ptr<ModelDevice>& out) override { return cuda::DeviceModel::create(facts_, model, options, out); }

    Status counts(Counts& out) const override {
        const cuda::DeviceCounters& all = cuda::device_counters();
        TMOE_RETURN_IF_ERROR(cuda::free_memory(facts_.ordinal, out.free_bytes));
        out.held_bytes = static_cast<uint64_t>(all.device_bytes.load());
        out.buffers = static_cast<uint64_t>(all.buffers.load());
        out.launches = all.launches;
        out.wait_nanoseconds = all.wait_nanoseconds;
        return {};
    }
    uint64_t step_bytes(const Plan& plan, size_t max_batch) const override { return cuda::StepMemory::bytes(plan, max_batch); }
    KernelDevice& kernels() override { return kernels_; }

  private:
    cuda::DeviceFacts facts_;
    cuda::CudaKernels kernels_;
};

}  // namespace

Status attach_device(Backend& backend, int ordinal) {
    cuda::DeviceFacts facts;
    TMOE_RETURN_IF_ERROR(cuda::open_device(ordinal, facts));
    backend.device = std::make_shared<CudaDevice>(std::move(facts));
    return {};
}

}  // namespace tmoe
