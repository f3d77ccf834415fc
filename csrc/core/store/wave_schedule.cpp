#include "core/store/wave_schedule.h"

#include <algorithm>

namespace tmoe {

void WaveSchedule::begin(uint32_t layer, const std::vector<uint32_t>& entries) {
    layer_ = layer;
    wanted_ = entries;
    take_wave();
    if (wanted_.empty() || count_ == 0) return;
    std::vector<WaveItem>& first = parts_[0];
    const auto middle = first.begin() + static_cast<std::ptrdiff_t>((first.size() + 1) / 2);
    if (middle == first.end()) return;
    parts_[count_++].assign(middle, first.end());
    first.erase(middle, first.end());
}

void WaveSchedule::take_wave() {
    if (wanted_.empty()) return;
    std::vector<WaveItem>& wave = parts_[count_];
    wave.clear();
    cache_.next_wave(layer_, wanted_, wave);
    if (!wave.empty()) count_++;
}

void WaveSchedule::advance() {
    if (count_ == 0) return;
    cache_.release(parts_[0]);
    std::swap(parts_[0], parts_[1]);
    count_--;
    take_wave();
}

void WaveSchedule::forget(uint32_t entry) {
    for (size_t i = 0; i < count_; i++) {
        std::vector<WaveItem>& part = parts_[i];
        part.erase(std::remove_if(part.begin(), part.end(), [&](const WaveItem& item) { return item.entry == entry; }), part.end());
    }
}

void WaveSchedule::abort() {
    for (size_t i = 0; i < count_; i++) cache_.release(parts_[i]);
    count_ = 0;
    wanted_.clear();
}

}  // namespace tmoe
