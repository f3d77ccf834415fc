// expert_matmul on the device: quantise x, gate and up with their activation in one launch, quantise the hidden rows, down.
#pragma once
#include "cuda/matmul.h"

namespace tmoe {
namespace cuda {

/** ExpertMatmulArgs with the device's pointers. */
struct ExpertCall {
    const float* x;
    size_t tokens, width, k, experts;
    ExpertStack gate, up, down;
    const uint32_t *offsets, *slots;
    float* out;
    Marks marks;
    const uint32_t* part = nullptr;   ///< [part_count] experts that are computed; null: all
    size_t part_count = 0;
    ExpertActivation activation = ExpertActivation::Silu;
};

/** Scratch of rows in device memory, reused from call to call. */
class ExpertMemory {
  public:
    /** GPU_VRAM_EXHAUSTED. */
    Status reserve(size_t tokens, size_t k, size_t width, size_t hidden);
    static size_t bytes(size_t tokens, size_t k, size_t width, size_t hidden);

    struct Rows {   ///< of quantised activations
        DeviceBuffer q, scale, sum, sum16;
        Status reserve(size_t rows, size_t columns);
        static size_t bytes(size_t rows, size_t columns) { return rows * columns * 3 / 2; }
        void attach(DeviceActivations& view) const;
        QuantiseCall call(const float* from, size_t rows, size_t columns) const;
    };
    Rows x, hidden;
    DeviceBuffer gate, up;
};

Status expert_matmul(Stream& stream, const DeviceFacts& device, const ExpertCall& call, const ExpertMemory& memory, MatmulForm form = MatmulForm::Auto);
/** The same in parts, as experts arrive: x first, then parts that together name every expert that has rows. */
Status begin_expert_matmul(Stream& stream, const ExpertCall& call, const ExpertMemory& memory);
Status expert_matmul_part(Stream& stream, const DeviceFacts& device, const ExpertCall& call, const ExpertMemory& memory, MatmulForm form = MatmulForm::Auto);

}  // namespace cuda
}  // namespace tmoe
