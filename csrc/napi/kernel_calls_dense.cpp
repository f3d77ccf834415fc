// Kernel calls of everything but experts: block formats, rmsNorm, rope, attention, embed, logits, sample.
#include <algorithm>
#include <cstring>

#include "core/sampling.h"
#include "cpu/embed.h"
#include "cpu/rms_norm.h"
#include "cpu/rope.h"
#include "napi/kernel_calls.h"
#include "napi/sampling_args.h"
#include "quant/blocks.h"
#include "quant/repack.h"

namespace tmoe {

namespace {

constexpr int64_t kMostHeadDim = 1 << 16;

// [type, x, columns, out]
KernelWork read_quantize(KernelArgs& in, bool) {
    const DType type = in.dtype("type");
    const float* from = in.floats("x", 0);
    const size_t length = in.last_length(), columns = in.size("columns", 1, kMostSize);
    if (in.ok() && !can_encode(type)) in.refuse(std::string("type: ") + dtype_info(type).name + " can be read but not written");
    in.parts("columns", columns, dtype_info(type).block);
    const size_t rows = in.parts("x", length, columns), row = row_bytes(type, columns);
    uint8_t* to = in.out_bytes("out", product(rows, row));
    return {[=](const Context& context, KernelScratch& scratch) -> Status {
                if (scratch.device) return scratch.device->quantize(type, from, rows, columns, to);
                RowFlags bad;
                TMOE_RETURN_IF_ERROR(bad.allocate(rows));
                const NonFinite flags = bad.flags();
                const bool done = context.pool.for_each(rows, context.cancel, [&](size_t i, size_t) {
                    if (!encode_row(type, from + i * columns, to + i * row, columns)) flags.mark(i);
                });
                return done ? bad.check("quantize") : Status(StatusCode::CANCELLED, "quantize was cancelled");
            },
            nullptr};
}

// [type, data, columns, out]
KernelWork read_dequantize(KernelArgs& in, bool) {
    const DType type = in.dtype("type");
    const uint8_t* from = in.bytes("data", 0);
    const size_t length = in.last_length(), columns = in.size("columns", 1, kMostSize);
    in.parts("columns", columns, dtype_info(type).block);
    const size_t row = row_bytes(type, columns), rows = in.parts("data", length, row);
    float* to = in.out_floats("out", product(rows, columns));
    return {[=](const Context& context, KernelScratch& scratch) {
                if (scratch.device) return scratch.device->dequantize({type, rows, columns, from}, to);
                const bool done = context.pool.for_each(rows, context.cancel, [&](size_t i, size_t) {
                    decode_row(type, from + i * row, to + i * columns, columns);
                });
                return done ? Status() : Status(StatusCode::CANCELLED, "dequantize was cancelled");
            },
            nullptr};
}

// [x, weight, epsilon, out]
KernelWork read_rms_norm(KernelArgs& in, bool naive) {
    RmsNormArgs a = {};
    a.x = in.floats("x", 0);
    const size_t length = in.last_length();
    a.weight = in.floats("weight", 1);
    a.n = in.last_length();
    a.rows = in.parts("x", length, a.n);
    a.epsilon = static_cast<float>(in.number("epsilon", 0, 1e30));
    a.out = in.floats("out", length);
    return {[=](const Context& context, KernelScratch& scratch) {
                if (naive) return rms_norm_ref(a);
                return scratch.device ? scratch.device->rms_norm(a) : rms_norm(context, a);
            },
            nullptr};
}

/** [factor, magnitude, by, none, all, most, originalContext], from where the scaling has nothing more to say undefined. */
RopeScaling read_scaling(KernelArgs& in) {
    RopeScaling s;
    if (in.next_is_undefined()) return s;
    s.factor = in.number("scaling.factor", 1, 1e9);
    s.magnitude = in.number("scaling.magnitude", 1e-9, 1e9);
    if (in.next_is_undefined()) return s;
    s.keep = in.choice("scaling.keep.by", {"pair", "turns"}) == 0 ? RopeKeep::Pair : RopeKeep::Turns;
    s.none = in.number("scaling.keep.none", -1e15, 1e15);
    s.all = in.number("scaling.keep.all", -1e15, 1e15);
    s.most = in.number("scaling.keep.most", 0, 1);
    if (s.keep == RopeKeep::Turns) s.original_context = in.number("scaling.keep.originalContext", 1, 1e15);
    if (s.none == s.all) in.refuse("scaling.keep: none and all must differ");
    return s;
}

// [x, positions, heads, headDim, rotaryDim, base, pairs, divisors, ...scaling]
KernelWork read_rope(KernelArgs& in, bool naive) {
    float* x = in.floats("x", 0);
    const size_t length = in.last_length();
    const uint32_t* positions = in.indices("positions", 0);
    const size_t tokens = in.last_length(), heads = in.size("heads", 1, kMostSize), head_dim = in.size("headDim", 1, kMostHeadDim);
    const size_t rotary = in.size("rotaryDim", 2, kMostHeadDim);
    const double base = in.number("base", 1, 1e15);
    const RopePairs pairs = in.choice("pairs", {"neox", "interleaved"}) == 0 ? RopePairs::Neox : RopePairs::Interleaved;
    if (rotary % 2 != 0 || rotary > head_dim) in.refuse("rotaryDim: must be even and at most headDim");
    in.require("x", length, product(tokens, heads, head_dim));
    const std::vector<float> divisors = in.optional_floats("divisors", rotary / 2);
    for (const float d : divisors) {
        if (!(d >= kLeastRopeDivisor)) in.refuse("divisors: every one must be at least 2^-30");
    }
    const RopeScaling scaling = read_scaling(in);
    return {[=](const Context& context, KernelScratch& scratch) {
                RopeTable table(base, rotary, scaling);
                if (!divisors.empty()) table.divide(divisors.data());
                const RopeArgs a = {x, positions, tokens, heads, head_dim, table, pairs};
                if (naive) return rope_ref(a);
                return scratch.device ? scratch.device->rope(a) : rope(context, a);
            },
            nullptr};
}

// [q, k, v, cache, start, heads, kvHeads, headDim, valueDim, scale, kvType, out, window, sinks]
KernelWork read_attention(KernelArgs& in, bool naive) {
    AttentionArgs a = {};
    a.q = in.floats("q", 0);
    const size_t q = in.last_length();
    a.k = in.floats("k", 0);
    const size_t k = in.last_length();
    a.v = in.floats("v", 0);
    const size_t v = in.last_length();
    uint8_t* cache = in.out_aligned_bytes("cache", 0);
    const size_t cache_bytes = in.last_length(), start = in.size("start", 0, kMostSize);
    a.heads = in.size("heads", 1, kMostSize);
    a.kv_heads = in.size("kvHeads", 1, kMostSize);
    a.head_dim = in.size("headDim", 1, kMostHeadDim);
    a.value_dim = in.size("valueDim", 1, kMostHeadDim);
    a.scale = static_cast<float>(in.number("scale", -3e38, 3e38));
    a.type = in.choice("kvType", {"f16", "f32"}) == 0 ? KvType::F16 : KvType::F32;
    in.parts("heads", a.heads, a.kv_heads);
    const size_t tokens = in.parts("q", q, product(a.heads, a.head_dim)), positions = start + tokens;
    const size_t pages = (positions + kKvPage - 1) / kKvPage;
    const size_t page = product(product(a.kv_heads, a.head_dim + a.value_dim), kKvPage, kv_bytes(a.type));
    in.require("k", k, product(tokens, a.kv_heads, a.head_dim));
    in.require("v", v, product(tokens, a.kv_heads, a.value_dim));
    in.require("cache", cache_bytes, product(pages, page));
    a.out = in.out_floats("out", product(tokens, a.heads, a.value_dim));
    a.window = in.size("window", 0, kMostSize);
    const std::vector<float> sinks = in.optional_floats("sinks", a.heads);
    return {[=](const Context& context, KernelScratch& scratch) mutable -> Status {
                if (tokens == 0) return {};
                a.sinks = sinks.empty() ? nullptr : sinks.data();
                std::vector<uint8_t*> list(pages);
                for (size_t i = 0; i < pages; i++) list[i] = cache + i * page;
                const AttentionRun run = {0, tokens, start, list.data()};
                a.runs = &run;
                a.run_count = 1;
                if (naive) return attention_ref(a);
                if (scratch.device) return scratch.device->attention(a);
                TMOE_RETURN_IF_ERROR(scratch.attention.reserve(context.pool.threads(), positions));
                return attention(context, a, scratch.attention);
            },
            nullptr};
}

// [type, rows, columns, data, ids, out]
KernelWork read_embed(KernelArgs& in, bool naive) {
    EmbedArgs a = {};
    a.table = read_matrix(in, "table", 1, false).raw();
    a.ids = in.ids("ids", 0);
    a.count = in.last_length();
    a.out = in.out_floats("out", product(a.count, a.table.columns));
    return {[=](const Context& context, KernelScratch& scratch) {
                if (naive) return embed_ref(a);
                return scratch.device ? scratch.device->embed(a) : embed(context, a);
            },
            nullptr};
}

// [states, type, rows, columns, data, out]
KernelWork read_logits(KernelArgs& in, bool naive) {
    const float* x = in.floats("states", 0);
    const size_t length = in.last_length();
    const MatrixArg weight = read_matrix(in, "weight", 1, !naive);
    const size_t tokens = in.parts("states", length, weight.columns);
    float* out = in.out_floats("out", product(tokens, weight.rows));
    if (naive) {
        return {[=](const Context&, KernelScratch&) { return matmul_ref(weight.raw(), x, tokens, out); }, nullptr};
    }
    return {[=](const Context& context, KernelScratch& scratch) -> Status {
                if (scratch.device) return scratch.device->matmul(weight.packed().shape, x, tokens, out);
                const auto cancelled = [] { return Status(StatusCode::CANCELLED, "logits was cancelled"); };
                ActivationView a;
                a.columns = a.value_stride = weight.columns;
                a.values = x;
                RowFlags bad;
                TMOE_RETURN_IF_ERROR(bad.allocate(tokens));
                if (is_quantised(weight.type)) {
                    TMOE_RETURN_IF_ERROR(scratch.activations.reserve(tokens, weight.columns));
                    if (!quantise_rows(context, x, tokens, weight.columns, weight.columns, scratch.activations, bad.flags())) return cancelled();
                    a.blocks = scratch.activations.row(0, weight.columns);
                }
                const MatmulTarget target = {weight.packed().shape, out, weight.rows};
                if (!matmul(context, a, tokens, &target, 1, false)) return cancelled();
                return bad.check("logits");
            },
            nullptr};
}

// [logits, position, temperature, topK, topP, minP, repetitionPenalty, seed, topLogprobs, recent?, banned?, allowed?] → {token, logprob?, top?}
KernelWork read_sample(KernelArgs& in, bool naive) {
    const float* logits = in.floats("logits", 1);
    const size_t vocab = in.last_length(), position = in.size("position", 0, kLargestInteger);
    auto params = std::make_shared<SamplingParams>();
    auto out = std::make_shared<Sampled>();
    params->temperature = static_cast<float>(in.number("temperature", 0, kMostTemperature));
    params->top_k = static_cast<int32_t>(in.size("topK", 0, INT32_MAX));
    params->top_p = static_cast<float>(in.number("topP", 0, 1));
    params->min_p = static_cast<float>(in.number("minP", 0, 1));
    params->repetition_penalty = static_cast<float>(in.number("repetitionPenalty", kLeastPenalty, kMostPenalty));
    params->seed = in.size("seed", 0, kLargestInteger);
    params->top_logprobs = static_cast<int32_t>(in.size("topLogprobs", -1, kMostLogprobs));
    params->recent = in.optional_tokens("recent");
    params->banned = in.optional_tokens("banned");
    params->allowed = in.optional_words("allowed");
    return {[=](const Context& context, KernelScratch& scratch) -> Status {
                if (naive) return sample_ref(logits, vocab, *params, position, *out);
                if (scratch.device) return scratch.device->sample(logits, vocab, *params, position, *out);
                TMOE_RETURN_IF_ERROR(scratch.first.reserve(product(2, vocab, sizeof(float))));
                return sample(context.kernels, logits, vocab, *params, position, scratch.first.as<float>(), *out);
            },
            [=](napi_env env, napi_value& value) -> Status {
                if (napi_create_object(env, &value) != napi_ok) return exception_pending();
                return define_sampled(env, value, *out);
            }};
}

// [logits, targets, out]: of each row of logits, -ln of its target's probability
KernelWork read_log_loss(KernelArgs& in, bool) {
    const float* logits = in.floats("logits", 1);
    const size_t total = in.last_length();
    const int32_t* targets = in.ids_checked_here("targets", 1);
    const size_t rows = in.last_length(), vocab = in.parts("logits", total, rows);
    float* out = in.out_floats("out", rows);
    for (size_t i = 0; in.ok() && i < rows; i++) {
        if (targets[i] < 0 || static_cast<size_t>(targets[i]) >= vocab) in.refuse(format("targets[%zu]: %d is no token of %zu", i, targets[i], vocab));
    }
    return {[=](const Context& context, KernelScratch& scratch) -> Status {
                for (size_t row = 0; row < rows; row++) TMOE_RETURN_IF_ERROR(check_logits(logits + row * vocab, vocab, row));
                TMOE_RETURN_IF_ERROR(scratch.first.reserve(product(context.pool.threads(), vocab, sizeof(float))));
                const bool done = context.pool.for_each(rows, context.cancel, [&](size_t row, size_t worker) {
                    const float* own = logits + row * vocab;
                    float* p = scratch.first.as<float>() + worker * vocab;
                    memcpy(p, own, vocab * sizeof(float));
                    context.kernels.softmax(p, vocab);
                    const auto best = static_cast<size_t>(std::max_element(own, own + vocab) - own);
                    out[row] = 0.0f - log_probability(own[targets[row]], own[best], p[best]);
                });
                return done ? Status() : Status(StatusCode::CANCELLED, "logLoss was cancelled");
            },
            nullptr};
}

constexpr KernelEntry kEntries[] = {
    {"rmsNorm", read_rms_norm}, {"rope", read_rope},     {"attention", read_attention}, {"embed", read_embed},
    {"logits", read_logits},    {"sample", read_sample}, {"quantize", read_quantize},   {"dequantize", read_dequantize},
    {"logLoss", read_log_loss},
};

}  // namespace

size_t dense_kernels(const KernelEntry*& out) {
    out = kEntries;
    return sizeof kEntries / sizeof kEntries[0];
}

}  // namespace tmoe
