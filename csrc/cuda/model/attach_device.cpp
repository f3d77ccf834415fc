#include "core/model.h"
#include "cuda/model/device_model.h"

namespace tmoe {

namespace {

class CudaDevice : public BackendDevice {
  public:
    explicit CudaDevice(cuda::DeviceFacts facts) : facts_(std::move(facts)) {}
    std::string name() const override { return facts_.name; }
    Status create_model(Model& model, const LoadOptions& options, std::unique_ptr<ModelDevice>& out) override { return cuda::DeviceModel::create(facts_, model, options, out); }

  private:
    cuda::DeviceFacts facts_;
};

}  // namespace

Status attach_device(Backend& backend) {
    cuda::DeviceFacts facts;
    TMOE_RETURN_IF_ERROR(cuda::open_device(0, facts));
    backend.device = std::make_shared<CudaDevice>(std::move(facts));
    return {};
}

}  // namespace tmoe
