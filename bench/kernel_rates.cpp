// How near the CPU's kernels come to this machine: the experts' matrices beside the read bandwidth (one row each, and a few) and the int8 peak (a
// prompt's rows), and a plain matrix beside one that is split along K. Every figure is taken in turn with the others, in one process, on the same
// threads. Compiled by bench/rates.mjs.
//   kernel_rates ISA THREADS TYPE ROUNDS [SCALE]    prints one JSON line a round; SCALE (1): of OLMoE's 64 experts in four layers, a share
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/expert_matmul.h"
#include "cpu/route.h"
#include "int8_peak.h"
#include "k_split.h"
#include "quant/repack.h"

using namespace tmoe;

namespace {

constexpr size_t kWidth = 2048, kHidden = 1024, kUsed = 8, kPromptTokens = 512;
constexpr size_t kFew = 4;   // rows of each expert in a step of several sequences

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/** Rate of `amount` a call: calls for at least `least` seconds. */
template <class Fn> double rate(double amount, double least, Fn&& fn) {
    const double begin = seconds();
    double done = 0, now = begin;
    do {
        fn();
        done += amount;
        now = seconds();
    } while (now - begin < least);
    return done / (now - begin);
}

/** The same activations in every run. */
struct Random {
    uint32_t state = 1;
    float next() {
        state = state * 1664525u + 1013904223u;
        return static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0f;
    }
};

/** Packed random weights: one matrix, then copies of it, since only their places matter. */
struct Matrices {
    Buffer memory;
    size_t bytes;
    Matrices(DType type, size_t rows, size_t columns, size_t copies, std::vector<uint8_t>* raw = nullptr) : bytes(packed_bytes(type, rows, columns)) {
        std::vector<uint8_t> file(rows * row_bytes(type, columns));
        uint32_t state = 1;
        for (uint8_t& byte : file) {
            state = state * 1664525u + 1013904223u;
            byte = static_cast<uint8_t>((state >> 16) % 60 + (type == DType::MXFP4 ? 64 : 0));  // no scale is infinite, none or below all normal numbers
        }
        if (!memory.allocate(bytes * copies).ok()) exit(fprintf(stderr, "kernel_rates: no memory\n"));
        pack_rows(type, file.data(), rows, columns, memory.as<uint8_t>());
        for (size_t i = 1; i < copies; i++) memcpy(memory.as<uint8_t>() + i * bytes, memory.data(), bytes);
        if (raw) *raw = std::move(file);
    }
};

/** One layer's experts as expert_matmul takes them, and tokens for them. */
struct Layer {
    std::vector<float> x, out;
    std::vector<int32_t> ids;
    std::vector<uint32_t> offsets, slots, rows;
    ExpertMatmulArgs args{};

    /** Token t takes experts first + t·kUsed …, so that all are taken alike. */
    Layer(const Matrices& in, const Matrices& down, DType type, size_t experts, size_t place, size_t tokens, size_t first)
        : x(tokens * kWidth), out(tokens * kUsed * kWidth), ids(tokens * kUsed), offsets(experts + 1), slots(ids.size()), rows(ids.size()) {
        Random random;
        for (float& value : x) value = random.next();
        for (size_t i = 0; i < ids.size(); i++) ids[i] = static_cast<int32_t>((first + i) % experts);
        if (!dispatch({ids.data(), tokens, kUsed, experts, offsets.data(), slots.data(), rows.data()}).ok()) exit(fprintf(stderr, "kernel_rates: dispatch\n"));
        const auto stack = [&](const Matrices& m, size_t index, size_t count, size_t rows_, size_t columns) {
            return ExpertStack{{type, rows_, columns, m.memory.as<uint8_t>() + (place * count + index) * experts * m.bytes}, m.bytes};
        };
        args = {x.data(), tokens, kWidth, kUsed, experts, stack(in, 0, 2, kHidden, kWidth), stack(in, 1, 2, kHidden, kWidth), stack(down, 0, 1, kWidth, kHidden), offsets.data(), slots.data(), out.data()};
    }
};

typedef uint64_t Lanes __attribute__((vector_size(64)));
std::atomic<uint64_t> kept{0};

/** Reads all of it, a chunk an item: as large as an item of the kernels. */
void read_all(const Context& context, const uint8_t* from, size_t bytes) {
    constexpr size_t kChunk = size_t{512} << 10;
    context.pool.for_each(bytes / kChunk, nullptr, [&](size_t chunk, size_t) {
        const Lanes* lanes = reinterpret_cast<const Lanes*>(from + chunk * kChunk);
        Lanes sums[8] = {};
        for (size_t i = 0; i < kChunk / sizeof(Lanes); i += 8)
            for (size_t j = 0; j < 8; j++) sums[j] ^= lanes[i + j];
        for (const Lanes& sum : sums) kept ^= sum[0] ^ sum[7];
    });
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 5) return fprintf(stderr, "kernel_rates ISA THREADS TYPE ROUNDS [SCALE]\n"), 2;
    const size_t threads = strtoul(argv[2], nullptr, 10), rounds = strtoul(argv[4], nullptr, 10), share = argc > 5 ? strtoul(argv[5], nullptr, 10) : 1;
    const DTypeInfo* info = nullptr;
    for (const DTypeInfo& each : kDTypes)
        if (strcmp(each.name, argv[3]) == 0) info = &each;
    Isa isa{};
    if (!info || !resolve_isa(argv[1], isa).ok()) return fprintf(stderr, "kernel_rates: no such type or instruction set\n"), 2;
    ThreadPool pool;
    if (!pool.start(threads).ok()) return 1;
    const Context context = {*find_kernels(isa), pool};
    const DType type = info->type;
    const size_t experts = 64 / share, layers = share > 1 ? 1 : 4;

    const Matrices in(type, kHidden, kWidth, 2 * experts * layers), down(type, kWidth, kHidden, experts * layers);
    std::vector<uint8_t> raw;
    const size_t plain_rows = experts * kHidden;   // as wide as the experts', and larger than the caches
    const Matrices plain(type, plain_rows, kWidth, 1, &raw);
    const KSplit split(type, raw.data(), plain_rows, kWidth);
    std::vector<Layer> single, few, prompt;
    for (size_t layer = 0; layer < layers; layer++) {
        for (size_t first = 0; first + kUsed <= experts; first += kUsed) single.emplace_back(in, down, type, experts, layer, 1, first);
        few.emplace_back(in, down, type, experts, layer, experts / kUsed * kFew, 0);
    }
    prompt.emplace_back(in, down, type, experts, 0, kPromptTokens, 0);
    ExpertScratch scratch;
    const auto compute = [&](Layer& layer) {
        const Status status = expert_matmul(context, layer.args, scratch, {});
        if (!status.ok()) exit(fprintf(stderr, "kernel_rates: %s\n", status.message().c_str()));
    };
    for (Layer& layer : single) compute(layer);
    compute(prompt[0]);

    // Some tokens for the plain matrix, quantised as the kernels and as the split want them.
    constexpr size_t kTokens = 60;   // whole tiles of both
    ActivationBuffer activations;
    if (!activations.reserve(kTokens, kWidth).ok()) return 1;
    quantise_rows(context, prompt[0].x.data(), kTokens, kWidth, kWidth, activations, {});
    ActivationView view;
    view.columns = view.value_stride = kWidth;
    view.values = prompt[0].x.data();
    view.blocks = activations.row(0, kWidth);
    const KSplitActivations split_view(view, kTokens);
    std::vector<float> out(kTokens * plain_rows);
    const auto multiply = [&](size_t tokens) {
        const MatmulTarget target = {{type, plain_rows, kWidth, plain.memory.as<uint8_t>()}, out.data(), plain_rows};
        tmoe::matmul(context, view, tokens, &target, 1, false);
    };
    const auto multiply_split = [&](size_t tokens) { split.matmul(context, split_view, tokens, out.data(), plain_rows); };
    multiply(kTokens);
    const std::vector<float> right = out;
    if (split.there()) multiply_split(kTokens);
    double apart = 0, largest = 0;
    for (size_t i = 0; i < out.size(); i++) {
        apart = std::max(apart, static_cast<double>(std::abs(out[i] - right[i])));
        largest = std::max(largest, static_cast<double>(std::abs(right[i])));
    }
    if (split.there() && !(apart < 1e-4 * largest)) return fprintf(stderr, "kernel_rates: the split matrix gives other results: %g of %g\n", apart, largest), 1;

    const double read_bytes = static_cast<double>(in.memory.size() + down.memory.size()), plain_bytes = static_cast<double>(plain.bytes);
    const double prompt_operations = 6.0 * kPromptTokens * kUsed * kWidth * kHidden, plain_operations = 2.0 * kTokens * plain_rows * kWidth;
    constexpr double kSpan = 0.15;   // seconds of each figure
    pool.begin_burst();
    for (size_t round = 0; round < rounds; round++) {
        const auto bandwidth = [&] {
            return rate(read_bytes / 1e9, kSpan, [&] {
                read_all(context, in.memory.as<uint8_t>(), in.memory.size());
                read_all(context, down.memory.as<uint8_t>(), down.memory.size());
            });
        };
        const auto peak = [&] {
            if (!kHasInt8Peak) return 0.0;
            return rate(static_cast<double>(threads) * kPeakOperations / 1e9, kSpan, [&] { pool.for_each(threads, nullptr, [&](size_t, size_t) { int8_operations(kPeakRepeats); }); });
        };
        const double before = bandwidth();
        const double gemv = rate(read_bytes / 1e9, kSpan, [&] {
            for (Layer& layer : single) compute(layer);
        });
        const double expert_few = rate(read_bytes / 1e9, kSpan, [&] {
            for (Layer& layer : few) compute(layer);
        });
        const double after = bandwidth();
        const double peak_before = peak();
        const double gemm = rate(prompt_operations / 1e9, kSpan, [&] { compute(prompt[0]); });
        const double peak_after = peak();
        const double plain_gemv = rate(plain_bytes / 1e9, kSpan, [&] { multiply(1); });
        const double split_gemv = split.there() ? rate(plain_bytes / 1e9, kSpan, [&] { multiply_split(1); }) : 0;
        const double plain_gemm = rate(plain_operations / 1e9, kSpan, [&] { multiply(kTokens); });
        const double split_gemm = split.there() ? rate(plain_operations / 1e9, kSpan, [&] { multiply_split(kTokens); }) : 0;
        printf("{\"bandwidth\": %.3f, \"expertGemv\": %.3f, \"expertFew\": %.3f, \"int8Peak\": %.1f, \"expertGemm\": %.1f, \"gemv\": %.3f, \"splitGemv\": %.3f, \"gemm\": %.1f, \"splitGemm\": %.1f}\n",
               (before + after) / 2, gemv, expert_few, (peak_before + peak_after) / 2, gemm, plain_gemv, split_gemv, plain_gemm, split_gemm);
        fflush(stdout);
    }
    pool.end_burst();
    return 0;
}
