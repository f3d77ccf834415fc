#include <cmath>

#include "cpu/rms_norm.h"

namespace tmoe {

Status rms_norm_ref(const RmsNormArgs& a) {
    for (size_t row = 0; row < a.rows; row++) {
        const float* x = a.x + row * a.n;
        float lanes[16] = {0};
        for (size_t i = 0; i < a.n; i++) lanes[i % 16] = std::fma(x[i], x[i], lanes[i % 16]);
        for (int width = 8; width > 0; width /= 2) {
            for (int i = 0; i < width; i++) lanes[i] = lanes[i] + lanes[i + width];
        }
        if (!std::isfinite(lanes[0])) {
            return Status(StatusCode::RUNTIME_NAN_DETECTED, format("rmsNorm: row %zu has no finite sum of squares", row))
                .with("token", static_cast<double>(row));
        }
        const float scale = 1.0f / std::sqrt(lanes[0] / static_cast<float>(a.n) + a.epsilon);
        for (size_t i = 0; i < a.n; i++) a.out[row * a.n + i] = x[i] * scale * a.weight[i];
    }
    return {};
}

}  // namespace tmoe
