// What the parts of the self-test share: the count of checks, comparison of bits, seeded numbers.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/status.h"
#include "cuda/workspace.h"
#include "quant/blocks.h"
#include "../native/seeded.h"

namespace tmoe {
namespace check {

struct Totals {
    size_t passed = 0, failed = 0;
};
extern Totals totals;

void pass();
void fail(const std::string& where, const std::string& what);

/** Equal bits of n elements; the first difference is reported. */
template <class T> bool equal(const std::string& where, const T* got, const T* wanted, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(got + i, wanted + i, sizeof(T)) == 0) continue;
        fail(where, format("element %zu of %zu is %.9g, not %.9g", i, n, static_cast<double>(got[i]), static_cast<double>(wanted[i])));
        return false;
    }
    pass();
    return true;
}
template <class T> bool equal(const std::string& where, const std::vector<T>& got, const std::vector<T>& wanted) {
    return equal(where, got.data(), wanted.data(), wanted.size());
}

/** True, and counted, where the status is OK. */
bool sound(const std::string& where, const Status& status);

/** Seeded numbers, weights and routes. */
struct Source : Seeded {
    using Seeded::Seeded;
    /** Blocks of random codes of a weight type in the file's layout, with scales near 2^-6. */
    std::vector<uint8_t> weights(DType type, size_t rows, size_t columns);
    /** [tokens][k] different experts each; `spread` of them are used. */
    std::vector<int32_t> choices(size_t tokens, size_t k, size_t spread);
};

std::vector<uint8_t> packed(DType type, const std::vector<uint8_t>& raw, size_t rows, size_t columns, size_t experts = 1);

/** Every golden case of a file (scripts/cuda-cases.mjs), against the frozen results. False where the file cannot be read. */
bool run_golden(cuda::Workspace& w, const char* path);
/** A grid of shapes, against the naive references. */
void run_grid(cuda::Workspace& w);
/** What bad input and lack of memory give. */
void run_faults(cuda::Workspace& w);

}  // namespace check
}  // namespace tmoe
