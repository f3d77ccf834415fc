#include "core/elementary.h"
#include "cpu/rope.h"

namespace tmoe {

namespace {

constexpr double kTwoPi = 6.28318530717958647692;

double scaled(double frequency, size_t pair, const RopeScaling& s) {
    if (s.keep == RopeKeep::None) return frequency / s.factor;
    const double v = s.keep == RopeKeep::Pair ? static_cast<double>(pair) : s.original_context * frequency / kTwoPi;
    double share = (v - s.none) / (s.all - s.none);
    share = share > 0 ? share : 0;
    share = (share < 1 ? share : 1) * s.most;
    return frequency * (share + (1 - share) / s.factor);
}

}  // namespace

RopeTable::RopeTable(double base, size_t rotary_dim, const RopeScaling& scaling) : magnitude_(scaling.magnitude), frequency_(rotary_dim / 2) {
    const double step = -2 * log_of(base) / static_cast<double>(rotary_dim);
    for (size_t i = 0; i < frequency_.size(); i++) frequency_[i] = scaled(exp_of(step * static_cast<double>(i)), i, scaling);
}

void RopeTable::divide(const float* divisors) {
    for (size_t i = 0; i < frequency_.size(); i++) frequency_[i] = frequency_[i] / static_cast<double>(divisors[i]);
}

void RopeTable::fill(uint64_t position, float* cos, float* sin) const {
    for (size_t i = 0; i < frequency_.size(); i++) {
        double s = 0, c = 0;
        sin_cos(static_cast<double>(position) * frequency_[i], s, c);
        cos[i] = static_cast<float>(c * magnitude_);
        sin[i] = static_cast<float>(s * magnitude_);
    }
}

}  // namespace tmoe
