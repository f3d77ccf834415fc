// A grid of shapes, every kernel against its naive twin on the CPU, bit for bit: empty, one row, sizes beside the tiles', all tokens to one
// expert, idle experts, heavy-tailed values; then what bad input gives.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>

#include "check.h"
#include "cuda/calls.h"
#include "cuda/dense.h"
#include "quant/repack.h"

namespace tmoe {
namespace check {

namespace {

constexpr DType kTypes[] = {DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::MXFP4, DType::Q4_K, DType::Q6_K};

std::vector<size_t> columns_of(DType type) {
    if (dtype_info(type).block == 256) return {256, 768};
    if (is_quantised(type)) return {32, 160, 2080};
    return {1, 17, 130};
}

void norms(cuda::Workspace& w, Source& source) {
    for (size_t n : {1, 15, 16, 17, 33, 257}) {
        for (size_t rows : {0, 1, 3}) {
            const auto x = source.numbers(rows * n), weight = source.numbers(n);
            std::vector<float> out(x.size()), wanted(x.size());
            const std::string where = format("rms_norm, %zu rows of %zu", rows, n);
            if (!sound(where, rms_norm_ref({x.data(), weight.data(), rows, n, 1e-5f, wanted.data()}))) continue;
            if (sound(where, cuda::rms_norm(w, {x.data(), weight.data(), rows, n, 1e-5f, out.data()}))) equal(where, out, wanted);
        }
    }
}

void ropes(cuda::Workspace& w, Source& source) {
    for (const RopePairs pairs : {RopePairs::Neox, RopePairs::Interleaved}) {
        for (size_t dim : {2, 14, 64}) {
            const std::vector<uint32_t> positions = {0, 5, 131071};
            auto x = source.numbers(positions.size() * 3 * dim), wanted = x;
            const RopeTable table(10000, dim > 8 ? dim - 2 : dim);
            const std::string where = format("rope, %zu wide", dim);
            static_cast<void>(rope_ref({wanted.data(), positions.data(), positions.size(), 3, dim, table, pairs}));
            if (sound(where, cuda::rope(w, {x.data(), positions.data(), positions.size(), 3, dim, table, pairs}))) equal(where, x, wanted);
        }
    }
}

/** Two sequences in one call: one that begins, one that goes on. */
void attentions(cuda::Workspace& w, Source& source) {
    struct Shape {
        size_t heads, kv_heads, head_dim, value_dim, first, start, second, window = 0;
    };
    for (const KvType type : {KvType::F16, KvType::F32}) {
        for (const Shape& s : {Shape{1, 1, 1, 1, 1, 0, 1}, Shape{4, 2, 10, 6, 3, 62, 4}, Shape{6, 2, 33, 17, 1, 130, 1}, Shape{2, 2, 64, 130, 2, 63, 1}, Shape{4, 2, 10, 6, 3, 62, 4, 5}, Shape{6, 2, 33, 17, 1, 130, 1, 70}}) {
            const size_t tokens = s.first + s.second, page = kv_layer_bytes(type, s.kv_heads, s.head_dim, s.value_dim);
            const auto q = source.numbers(tokens * s.heads * s.head_dim), k = source.numbers(tokens * s.kv_heads * s.head_dim), v = source.numbers(tokens * s.kv_heads * s.value_dim);
            const size_t pages = 1 + (s.start + s.second + kKvPage - 1) / kKvPage;
            std::vector<uint8_t> memory(pages * page);
            for (size_t at = 0; at < memory.size(); at += kv_bytes(type)) {
                const float x = source.number();
                const uint16_t half = f32_to_f16(x);
                memcpy(&memory[at], type == KvType::F16 ? static_cast<const void*>(&half) : &x, kv_bytes(type));
            }
            const auto sinks = source.numbers(s.heads);
            std::vector<uint8_t> copy = memory;
            std::vector<float> out(tokens * s.heads * s.value_dim), wanted(out.size());
            const auto run = [&](std::vector<uint8_t>& cache, std::vector<float>& to, auto call) {
                std::vector<uint8_t*> list;
                for (size_t i = 0; i < pages; i++) list.push_back(cache.data() + i * page);
                const AttentionRun runs[] = {{0, s.first, 0, list.data()}, {s.first, s.second, s.start, list.data() + 1}};
                const AttentionArgs a = {q.data(), k.data(), v.data(), to.data(), s.heads, s.kv_heads, s.head_dim, s.value_dim, 0.25f, type, 0, runs, 2, s.window, s.window ? sinks.data() : nullptr};
                return call(a);
            };
            const std::string where = format("attention, %zu heads of %zu", s.heads, s.head_dim);
            static_cast<void>(run(copy, wanted, [](const AttentionArgs& a) { return attention_ref(a); }));
            if (!sound(where, run(memory, out, [&](const AttentionArgs& a) { return cuda::attention(w, a); }))) continue;
            equal(where, out, wanted);
            equal(where + ", the cache", memory, copy);
        }
    }
}

void matmuls(cuda::Workspace& w, Source& source) {
    for (const DType type : kTypes) {
        for (size_t columns : columns_of(type)) {
            for (size_t rows : {1, 16, 67}) {
                for (size_t count : {0, 1, 5, 41}) {
                    if (rows == 67 && columns > 200 && count > 5) continue;
                    const auto raw = source.weights(type, rows, columns), layout = packed(type, raw, rows, columns);
                    const auto x = source.numbers(count * columns);
                    std::vector<float> wanted(count * rows);
                    const std::string where = format("matmul %s, %zu × %zu, %zu tokens", dtype_info(type).name, rows, columns, count);
                    if (!sound(where, matmul_ref({type, rows, columns, raw.data()}, x.data(), count, wanted.data()))) continue;
                    for (const auto form : {cuda::MatmulForm::Auto, cuda::MatmulForm::Rows, cuda::MatmulForm::Tiles}) {
                        if (form == cuda::MatmulForm::Tiles && !is_quantised(type)) continue;
                        std::vector<float> out(wanted.size());
                        if (sound(where, cuda::matmul(w, {type, rows, columns, layout.data()}, x.data(), count, out.data(), form))) equal(where, out, wanted);
                    }
                }
            }
        }
    }
}

void experts(cuda::Workspace& w, Source& source) {
    struct Shape {
        size_t tokens, k, experts, spread;
    };
    for (const DType type : kTypes) {
        for (const Shape& s : {Shape{0, 1, 2, 1}, Shape{1, 2, 5, 4}, Shape{9, 3, 8, 8}, Shape{40, 1, 3, 1}}) {
            const bool wide = dtype_info(type).block == 256;
            const size_t width = wide ? 256 : 64, hidden = wide ? 256 : 32;
            if (wide && s.tokens > 9) continue;
            const auto gate = source.weights(type, s.experts * hidden, width), down = source.weights(type, s.experts * width, hidden);
            const DType other = type == DType::Q4_0 ? DType::Q8_0 : type;  // gate and up of different types
            const auto up = source.weights(other, s.experts * hidden, width);
            const auto x = source.numbers(s.tokens * width);
            const auto ids = source.choices(s.tokens, s.k, s.spread);
            std::vector<uint32_t> offsets(s.experts + 1), slots(ids.size()), rows(ids.size());
            std::vector<uint32_t> own_offsets(offsets), own_slots(slots), own_rows(rows);
            const std::string where = format("expert_matmul %s, %zu tokens, %zu of %zu experts", dtype_info(type).name, s.tokens, s.k, s.experts);
            static_cast<void>(dispatch_ref({ids.data(), s.tokens, s.k, s.experts, offsets.data(), slots.data(), rows.data()}));
            if (sound(where, cuda::dispatch(w, {ids.data(), s.tokens, s.k, s.experts, own_offsets.data(), own_slots.data(), own_rows.data()}))) {
                equal(where + ", offsets", own_offsets, offsets);
                equal(where + ", slots", own_slots, slots);
                equal(where + ", rows", own_rows, rows);
            }
            std::vector<float> wanted(ids.size() * width);
            if (!sound(where, expert_matmul_ref({x.data(), s.tokens, width, s.k, s.experts, {type, hidden, width, gate.data()}, {other, hidden, width, up.data()}, {type, width, hidden, down.data()},
                                                 offsets.data(), slots.data(), wanted.data()}))) {
                continue;
            }
            const auto stack = [&](DType of, const std::vector<uint8_t>& layout, size_t r, size_t c) { return ExpertStack{{of, r, c, layout.data()}, packed_bytes(of, r, c)}; };
            const auto gate_layout = packed(type, gate, hidden, width, s.experts), up_layout = packed(other, up, hidden, width, s.experts), down_layout = packed(type, down, width, hidden, s.experts);
            for (const auto form : {cuda::MatmulForm::Rows, cuda::MatmulForm::Tiles}) {
                std::vector<float> out(wanted.size());
                const ExpertMatmulArgs a = {x.data(), s.tokens, width, s.k, s.experts, stack(type, gate_layout, hidden, width), stack(other, up_layout, hidden, width), stack(type, down_layout, width, hidden),
                                            offsets.data(), slots.data(), out.data()};
                if (sound(where, cuda::expert_matmul(w, a, form))) equal(where, out, wanted);
            }
            for (const bool add : {false, true}) {
                const auto values = source.numbers(ids.size() * width), weights = source.numbers(ids.size());
                auto out = source.numbers(s.tokens * width), expected = out;
                const auto args = [&](std::vector<float>& to) { return CombineArgs{values.data(), ids.data(), weights.data(), rows.data(), s.tokens, s.k, width, s.experts, add, to.data()}; };
                static_cast<void>(combine_ref(args(expected)));
                if (sound(where, cuda::combine(w, args(out)))) equal(where + ", combine", out, expected);
            }
        }
    }
}

/** Random and equal scores, masks for all and for each token, every form. */
void routes(cuda::Workspace& w, Source& source) {
    const std::vector<uint32_t> tier_groups = {0, 1, 3, 4}, group_experts = {0, 3, 6, 10, 16};
    for (const RouteForm form : {RouteForm::SoftmaxTopk, RouteForm::TopkSoftmax, RouteForm::Hser, RouteForm::Sigmoid}) {
        const bool hser = form == RouteForm::Hser, sigmoid = form == RouteForm::Sigmoid;
        for (size_t experts : {1, 16, 130}) {
            if (hser != (experts == 16) && hser) continue;
            for (size_t variant = 0; variant < (hser ? 6 : 18); variant++) {  // ties, normalised, masks, three times: plain, with biases, with biases and groups
                const size_t tokens = 3, width = variant % 2 ? 40 : 7, k = hser ? 4 : experts < 4 ? 1 : 4;
                auto states = source.numbers(tokens * width);
                std::vector<int32_t> router(experts * width), tiers(3 * width), groups(4 * width);
                for (auto* list : {&router, &tiers, &groups}) {
                    for (int32_t& q : *list) q = static_cast<int32_t>(source.next() % 16777215) - 8388607;
                }
                std::vector<int32_t> bias(experts);
                std::vector<int64_t> selection_bias(experts);
                for (int32_t& q : bias) q = static_cast<int32_t>(source.next() % 16777215) - 8388607;
                for (int64_t& q : selection_bias) q = static_cast<int64_t>(source.next() % (uint64_t{1} << 30)) - (int64_t{1} << 29);
                if (variant % 6 < 2) {
                    for (size_t i = width; i < router.size(); i++) router[i] = router[i % width];  // every expert scores the same
                }
                if (variant % 6 == 5) states[0] = 3e38f, states[1] = 1e-45f;
                std::vector<uint8_t> mask(experts, 1), mask2(experts, 1);
                for (size_t e = 0; e < experts; e++) mask[e] = e % 3 != 2 || e + 1 == experts || hser ? 1 : 0;
                if (hser) std::fill(mask.begin(), mask.begin() + 3, uint8_t{0});
                const uint8_t* masks[] = {nullptr, mask.data(), mask2.data()};
                const std::vector<uint32_t> positions = {0, 77, 4000000000u};
                HserRouting h = {{tiers.data(), -2, 3, width}, {groups.data(), 1, 4, width}, tier_groups.data(), group_experts.data(), 2, 1, 2, 256};
                RouteArgs a = {};
                a.states = states.data();
                a.tokens = tokens;
                a.router = {router.data(), -1, experts, width};
                a.k = k;
                a.form = form;
                a.normalise = variant % 3 == 1;
                a.scale = variant < 6 ? 1 : 2.5f;
                if (variant >= 6) {
                    a.bias = bias.data();
                    a.bias_exponent = static_cast<int>(variant) * 8 - 90;  // finer than the scores, and far coarser
                    a.selection_bias = sigmoid && variant % 2 ? selection_bias.data() : nullptr;
                }
                if (variant >= 12) a.groups = {experts == 130 ? 13u : experts == 16 ? 4u : 1u, experts == 130 ? 3u : experts == 16 ? 2u : 1u, sigmoid && variant % 4 < 2 ? GroupScore::Top2 : GroupScore::Max};
                a.layer = 3;
                a.seed[0] = 1;
                a.seed[3] = static_cast<uint32_t>(variant);
                a.positions = positions.data();
                a.enabled = variant % 6 == 3 ? mask.data() : nullptr;
                a.masks = variant % 6 == 4 ? masks : nullptr;
                a.hser = hser ? &h : nullptr;
                const size_t rows = route_rows(a);
                std::vector<int32_t> ids(tokens * k), wanted_ids(ids);
                std::vector<float> weights(tokens * k), wanted_weights(weights);
                std::vector<int64_t> scores(tokens * rows), wanted_scores(scores);
                std::vector<int32_t> states24(tokens * width);
                std::vector<float> probabilities(tokens * rows);
                a.states24 = states24.data();
                a.probabilities = probabilities.data();
                const std::string where = format("route, form %u, %zu experts, variant %zu", static_cast<unsigned>(form), experts, variant);
                a.ids = wanted_ids.data();
                a.weights = wanted_weights.data();
                a.scores = wanted_scores.data();
                if (!sound(where, route_ref(a))) continue;
                a.ids = ids.data();
                a.weights = weights.data();
                a.scores = scores.data();
                if (!sound(where, cuda::route(w, a))) continue;
                equal(where + ", ids", ids, wanted_ids);
                equal(where + ", weights", weights, wanted_weights);
                equal(where + ", scores", scores, wanted_scores);
            }
        }
    }
}

void samples(cuda::Workspace& w, Source& source) {
    for (size_t vocab : {1, 2, 33, 300, 5000}) {
        for (size_t variant = 0; variant < 6; variant++) {
            auto logits = source.numbers(vocab);
            if (variant == 1) std::fill(logits.begin(), logits.end(), 2.0f);
            SamplingParams p;
            p.seed = variant;
            p.top_logprobs = static_cast<int32_t>(variant) - 1;
            p.temperature = variant == 0 ? 0.0f : 0.25f * static_cast<float>(variant);
            p.top_k = variant == 3 ? 7 : 0;
            p.top_p = variant > 3 ? 0.8f : 1;
            p.min_p = variant == 5 ? 0.05f : 0;
            if (variant > 1) p.repetition_penalty = 1.3f, p.recent = {0, 1, 1, 400, -1};
            if (variant > 2 && vocab > 2) p.banned = {1, 2, 2};
            if (variant > 3) p.allowed.assign((vocab + 31) / 32 - (variant == 5 && vocab > 64), 0x9a5f00f1u);
            Sampled out, wanted;
            const std::string where = format("sample of %zu, variant %zu", vocab, variant);
            const Status expected = sample_ref(logits.data(), vocab, p, 11, wanted), status = cuda::sample(w, logits.data(), vocab, p, 11, out);
            if (expected.code() != status.code()) fail(where, status.message());
            equal(where + ", the token", &out.token, &wanted.token, 1);
            equal(where + ", its probability", &out.logprob, &wanted.logprob, 1);
            if (out.top_ids != wanted.top_ids) fail(where, "other alternatives");
            equal(where + ", alternatives", out.top_logprobs, wanted.top_logprobs);
        }
    }
}

void expect_code(const char* where, const Status& status, StatusCode code, double token) {
    double found = -1;
    for (const Detail& detail : status.details()) {
        if (detail.key == "token") found = detail.number;
    }
    if (status.code() == code && found == token) return pass();
    fail(where, format("%s {token: %g}: %s", status_code_name(status.code()), found, status.message().c_str()));
}

}  // namespace

void run_grid(cuda::Workspace& w) {
    Source source{42};
    norms(w, source);
    ropes(w, source);
    attentions(w, source);
    matmuls(w, source);
    experts(w, source);
    routes(w, source);
    samples(w, source);
}

void run_faults(cuda::Workspace& w) {
    const float infinity = std::numeric_limits<float>::infinity();
    Source source{7};
    std::vector<float> x = source.numbers(4 * 64), weight(64, 1.0f), out(4 * 64);
    x[2 * 64 + 5] = infinity;
    x[3 * 64] = std::nanf("");
    expect_code("rms_norm of infinity", cuda::rms_norm(w, {x.data(), weight.data(), 4, 64, 0, out.data()}), StatusCode::RUNTIME_NAN_DETECTED, 2);
    const auto raw = source.weights(DType::Q8_0, 16, 64), layout = packed(DType::Q8_0, raw, 16, 64);
    expect_code("matmul of infinity", cuda::matmul(w, {DType::Q8_0, 16, 64, layout.data()}, x.data(), 4, out.data()), StatusCode::RUNTIME_NAN_DETECTED, 2);
    Sampled sampled;
    expect_code("sample of infinity", cuda::sample(w, x.data() + 128, 64, {}, 0, sampled), StatusCode::RUNTIME_NAN_DETECTED, 5);
    const int32_t ids[] = {3, 9};
    expect_code("embed of an id that is not there", cuda::embed(w, {{DType::Q8_0, 4, 64, raw.data()}, ids, 2, out.data()}), StatusCode::VALIDATION_ERROR, 9);
    const int32_t twice[] = {1, 1};
    uint32_t offsets[5], slots[2], rows[2];
    expect_code("dispatch of an expert chosen twice", cuda::dispatch(w, {twice, 1, 2, 4, offsets, slots, rows}), StatusCode::ROUTING_INVALID_EXPERT, 0);
    cuda::DeviceBuffer large;
    const Status refused = large.allocate(size_t{1} << 46);
    if (refused.code() == StatusCode::GPU_VRAM_EXHAUSTED) {
        pass();
    } else {
        fail("64 TiB of GPU memory", refused.message());
    }
#if !defined(TMOE_CUDA_DEVICE)
    const char* const devices = "TIERED_MOE_EMULATED_DEVICES";
    setenv(devices, "2", 1);
    cuda::DeviceFacts facts;
    float* at = w.room<float>(64);
    uint32_t* row = w.room<uint32_t>(1);
    if (sound("another device", cuda::open_device(1, facts))) {
        expect_code("a launch on another device's stream", cuda::gather_rows(w.stream(), at, row, 1, 64, at), StatusCode::CUDA_DEVICE_FAILED, -1);
        expect_code("memory of another device", cuda::rms_norm(w, {x.data(), weight.data(), 2, 64, 0, out.data()}), StatusCode::CUDA_DEVICE_FAILED, -1);
    }
    sound("the first device again", cuda::open_device(0, facts));
    unsetenv(devices);
    sound("after another device", w.end());
#endif
    // The device is as it was.
    if (sound("after faults", cuda::rms_norm(w, {x.data(), weight.data(), 2, 64, 0, out.data()}))) pass();
}

}  // namespace check
}  // namespace tmoe
