// The self-test of csrc/cuda: every golden case and a grid of shapes, on the GPU of this machine or (emulated build) on the host.
//   cuda_self_test CASES [--device N]
// Exit status 0: all passed; 1: some failed; 2: no device, or no file of cases.
#include <cstdlib>

#include "check.h"
#include "quant/repack.h"

namespace tmoe {
namespace check {

Totals totals;

void pass() { totals.passed++; }
void fail(const std::string& where, const std::string& what) {
    totals.failed++;
    fprintf(stderr, "%s: %s\n", where.c_str(), what.c_str());
}

bool sound(const std::string& where, const Status& status) {
    if (status.ok()) return true;
    fail(where, std::string(status_code_name(status.code())) + ": " + status.message());
    return false;
}

std::vector<uint8_t> Source::weights(DType type, size_t rows, size_t columns) {
    const DTypeInfo& info = dtype_info(type);
    std::vector<uint8_t> out(rows * row_bytes(type, columns));
    for (size_t at = 0; at < out.size(); at += info.bytes) {
        const bool special = next() % 8 == 0;
        if (type == DType::F32) {
            const float x = number();
            memcpy(&out[at], &x, sizeof x);
            continue;
        }
        for (size_t i = 0; i < info.bytes; i++) out[at + i] = special ? 0x80 : static_cast<uint8_t>(next());
        if (type == DType::F16) store_u16(&out[at], static_cast<uint16_t>((next() & 0x83ff) | ((9 + (next() & 3)) << 10)));
        if (type == DType::BF16) store_u16(&out[at], static_cast<uint16_t>((next() & 0x807f) | ((121 + (next() & 3)) << 7)));
        if (type == DType::MXFP4) out[at] = static_cast<uint8_t>(118 + next() % 4);
        if (type == DType::Q4_K || type == DType::Q5_K) store_u16(&out[at + 2], static_cast<uint16_t>((next() & 0x83ff) | (3 << 10)));
        if (type == DType::Q4_1 || type == DType::Q5_1) store_u16(&out[at + 2], static_cast<uint16_t>((next() & 0x83ff) | (12 << 10)));
        const uint32_t exponent = info.block == 256 ? 3 : type == DType::Q8_0 || type == DType::IQ4_NL ? 7 : 11;
        if (info.block > 1 && type != DType::MXFP4) store_u16(&out[at + (type == DType::Q6_K ? 208 : 0)], static_cast<uint16_t>((next() & 0x83ff) | (exponent << 10)));
    }
    return out;
}

std::vector<int32_t> Source::choices(size_t tokens, size_t k, size_t spread) {
    std::vector<int32_t> out;
    for (size_t t = 0; t < tokens; t++) {
        const size_t first = out.size();
        while (out.size() < first + k) {
            const int32_t id = static_cast<int32_t>(next() % spread);
            bool fresh = true;
            for (size_t i = first; i < out.size(); i++) fresh = fresh && out[i] != id;
            if (fresh) out.push_back(id);
        }
    }
    return out;
}

std::vector<uint8_t> packed(DType type, const std::vector<uint8_t>& raw, size_t rows, size_t columns, size_t experts) {
    const size_t bytes = packed_bytes(type, rows, columns), file = rows * row_bytes(type, columns);
    std::vector<uint8_t> out(bytes * experts);
    for (size_t e = 0; e < experts; e++) pack_rows(type, raw.data() + e * file, rows, columns, out.data() + e * bytes);
    return out;
}

}  // namespace check
}  // namespace tmoe

int main(int argc, char** argv) {
    using namespace tmoe;
    const char* cases = argc > 1 ? argv[1] : "";
    const int ordinal = argc > 3 && strcmp(argv[2], "--device") == 0 ? atoi(argv[3]) : 0;
    cuda::Workspace w;
    const Status opened = w.open(ordinal);
    if (!opened.ok()) {
        fprintf(stderr, "%s: %s\n", status_code_name(opened.code()), opened.message().c_str());
        return 2;
    }
    setvbuf(stdout, nullptr, _IOLBF, 0);
    printf("device %d: %s, compute capability %d.%d\n", ordinal, w.device().name.c_str(), w.device().major, w.device().minor);
    const auto part = [](const char* name) { printf("%s: %zu checks passed, %zu failed\n", name, check::totals.passed, check::totals.failed); };
#if defined(TMOE_CUDA_DEVICE)
    const int orders = 1;
#else
    const int orders = 2;  // in which the emulation runs blocks and threads
#endif
    for (int order = 0; order < orders; order++) {
#if !defined(TMOE_CUDA_DEVICE)
        cuda::host::set_order(order == 0 ? cuda::host::Order::Descending : cuda::host::Order::Shuffled);
        printf("blocks and threads %s\n", order == 0 ? "in descending order" : "shuffled");
#endif
        if (!check::run_golden(w, cases)) return 2;
        part("golden cases");
        check::run_grid(w);
        part("and the shape grid");
        check::run_faults(w);
        part("and faults");
    }
    return check::totals.failed == 0 ? 0 : 1;
}
