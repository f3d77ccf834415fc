// Seeded numbers for checks that run without Node.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tmoe {

/** Floats with zeros, denormals, large and equal values among them. */
struct Seeded {
    explicit Seeded(uint64_t seed) : state(seed) {}
    uint64_t state;
    uint32_t next() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<uint32_t>(state >> 33);
    }
    float number() {
        const uint32_t kind = next() % 32;
        if (kind == 0) return 0.0f;
        if (kind == 1) return -0.0f;
        if (kind == 2) return 1e-41f;
        if (kind == 3) return 127.0f;
        const float unit = static_cast<float>(next() % 20001) / 10000.0f - 1.0f;
        return kind == 4 ? unit * 300.0f : unit;
    }
    std::vector<float> numbers(size_t n) {
        std::vector<float> out(n);
        for (float& x : out) x = number();
        return out;
    }
};

}  // namespace tmoe
