#include "core/elementary.h"
#include "cpu/rope.h"

namespace tmoe {

RopeTable::RopeTable(double base, size_t rotary_dim) : base_(base), frequency_(rotary_dim / 2) {
    const double step = -2 * log_of(base) / static_cast<double>(rotary_dim);
    for (size_t i = 0; i < frequency_.size(); i++) frequency_[i] = exp_of(step * static_cast<double>(i));
}

void RopeTable::fill(uint64_t position, float* cos, float* sin) const {
    for (size_t i = 0; i < frequency_.size(); i++) {
        double s = 0, c = 0;
        sin_cos(static_cast<double>(position) * frequency_[i], s, c);
        cos[i] = static_cast<float>(c);
        sin[i] = static_cast<float>(s);
    }
}

}  // namespace tmoe
