#include "cuda/calls.h"

#include <algorithm>

#include "cuda/dense.h"
#include "cuda/sample.h"
#include "quant/repack.h"

namespace tmoe {
namespace cuda {

Status rms_norm(Workspace& w, const RmsNormArgs& a) {
    RmsNormCall c = {w.in(a.x, a.rows * a.n), w.in(a.weight, a.n), a.rows, a.n, a.epsilon, w.out(a.out, a.rows * a.n), 1, {w.marks(a.rows), 0}};
    TMOE_RETURN_IF_ERROR(w.finish(w.status().ok() ? rms_norm(w.stream(), c) : Status()));
    return w.first_marked() < a.rows ? not_finite("rmsNorm", w.first_marked()) : Status();
}

Status rope(Workspace& w, const RopeArgs& a) {
    const size_t half = a.table.rotary_dim() / 2;
    std::vector<float> cosines(a.tokens * half), sines(a.tokens * half);
    for (size_t t = 0; t < a.tokens; t++) a.table.fill(a.positions[t], cosines.data() + t * half, sines.data() + t * half);
    const RopeCall c = {w.in_out(a.x, a.tokens * a.heads * a.head_dim), a.tokens, a.heads, a.head_dim, half, w.in(cosines.data(), cosines.size()), w.in(sines.data(), sines.size()), a.pairs};
    return w.finish(w.status().ok() ? rope(w.stream(), c) : Status());
}

Status attention(Workspace& w, const AttentionArgs& a) {
    constexpr size_t kScoreRows = 256;
    const size_t head_bytes = kv_layer_bytes(a.type, a.kv_heads, a.head_dim, a.value_dim);
    size_t tokens = 0, most = 0;
    std::vector<uint32_t> positions, first_pages;
    std::vector<uint8_t*> pages;
    for (size_t i = 0; i < a.run_count; i++) {
        const AttentionRun& run = a.runs[i];
        for (size_t t = 0; t < run.count; t++) {
            positions.push_back(static_cast<uint32_t>(run.start + t));
            first_pages.push_back(static_cast<uint32_t>(pages.size()));
        }
        for (size_t page = 0; page < (run.start + run.count + kKvPage - 1) / kKvPage; page++) pages.push_back(w.in_out(run.pages[page] + a.layer_offset, head_bytes));
        most = std::max(most, run.start + run.count);
        tokens += run.count;
    }
    AttentionCall c = {};
    c.q = w.in(a.q, tokens * a.heads * a.head_dim);
    c.k = w.in(a.k, tokens * a.kv_heads * a.head_dim);
    c.value_stride = a.value_stride ? a.value_stride : a.value_dim;
    c.v = w.in(a.v, tokens * a.kv_heads * c.value_stride);
    c.out = w.out(a.out, tokens * a.heads * a.value_dim);
    c.tokens = tokens;
    c.heads = a.heads;
    c.kv_heads = a.kv_heads;
    c.head_dim = a.head_dim;
    c.value_dim = a.value_dim;
    c.scale = a.scale;
    c.window = a.window;
    c.sinks = a.sinks ? w.in(a.sinks, a.heads) : nullptr;
    c.type = a.type;
    c.positions = w.in(positions.data(), positions.size());
    c.first_pages = w.in(first_pages.data(), first_pages.size());
    c.pages = w.in(pages.data(), pages.size());
    c.most_visible = most;
    c.score_rows = std::min(kScoreRows, tokens * a.heads);
    c.scores = w.room<float>(c.score_rows * most);
    return w.finish(w.status().ok() ? attention(w.stream(), c) : Status());
}

Status embed(Workspace& w, const EmbedArgs& a) {
    TMOE_RETURN_IF_ERROR(check_embed(a));
    RawMatrix table = a.table;
    table.raw = w.in(a.table.raw, a.table.rows * row_bytes(table.type, table.columns));
    const EmbedCall c = {table, w.in(a.ids, a.count), a.count, w.out(a.out, a.count * table.columns)};
    return w.finish(w.status().ok() ? embed(w.stream(), c) : Status());
}

Status quantize(Workspace& w, DType type, const float* x, size_t rows, size_t columns, uint8_t* out) {
    const EncodeCall c = {type, w.in(x, rows * columns), rows, columns, w.out(out, rows * row_bytes(type, columns)), {w.marks(rows), 0}};
    TMOE_RETURN_IF_ERROR(w.finish(w.status().ok() ? encode(w.stream(), c) : Status()));
    return w.first_marked() < rows ? not_finite("quantize", w.first_marked()) : Status();
}

Status dequantize(Workspace& w, const RawMatrix& from, float* out) {
    RawMatrix table = from;
    table.raw = w.in(from.raw, from.rows * row_bytes(from.type, from.columns));
    float* to = w.out(out, from.rows * from.columns);
    return w.finish(w.status().ok() ? dequantise(w.stream(), table, to) : Status());
}

Status matmul(Workspace& w, const MatrixView& weight, const float* x, size_t count, float* out, MatmulForm form) {
    MatmulCall c;
    c.weight.shape = weight;
    c.weight.stride = 0;
    c.weight.shape.packed = w.in(weight.packed, packed_bytes(weight.type, weight.rows, weight.columns));
    c.count = count;
    c.out_stride = weight.rows;
    c.a.columns = c.a.value_stride = weight.columns;
    c.a.values = w.in(x, count * weight.columns);
    QuantiseCall q = {c.a.values, count, weight.columns, weight.columns, nullptr, nullptr, nullptr, nullptr, {w.marks(count), 0}};
    if (is_quantised(weight.type)) {
        q.q = w.room<int8_t>(count * weight.columns);
        q.scale = w.room<float>(count * weight.columns / 32);
        q.sum = w.room<int32_t>(count * weight.columns / 32);
        q.sum16 = w.room<int32_t>(count * weight.columns / 16);
        c.a.q = q.q;
        c.a.scale = q.scale;
        c.a.sum = q.sum;
        c.a.sum16 = q.sum16;
    }
    c.out = w.out(out, count * weight.rows);
    Status launched = w.status().ok() && q.q ? quantise(w.stream(), q) : Status();
    if (w.status().ok() && launched.ok()) launched = matmul(w.stream(), w.device(), c, form);
    TMOE_RETURN_IF_ERROR(w.finish(std::move(launched)));
    return w.first_marked() < count ? not_finite("matmul", w.first_marked()) : Status();
}

Status sample(Workspace& w, const float* logits, size_t vocab, const SamplingParams& params, uint64_t position, Sampled& out) {
    std::vector<int32_t> ids;
    const SampleRow wish = describe_sample(params, position, vocab, ids);
    SampleOutcome outcome;
    const SampleCall c = {w.in(logits, vocab), nullptr, 1, vocab, w.in(&wish, 1), w.in(ids.data(), ids.size()), w.room<float>(vocab), w.room<float>(vocab), w.room<uint64_t>(sort_size(vocab)),
                          w.out(&outcome, 1)};
    TMOE_RETURN_IF_ERROR(w.finish(w.status().ok() ? sample(w.stream(), c) : Status()));
    return read_sample(outcome, params, position, vocab, out);
}

}  // namespace cuda
}  // namespace tmoe
