#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/attention.h"
#include "cpu/math_ref.h"
#include "quant/blocks.h"

namespace tmoe {

namespace {

/** One head's part of a cache, element by element, as attention_simd.h describes it. */
struct HeadCache {
    const AttentionArgs& a;
    const AttentionRun& run;
    size_t head;

    uint8_t* element(size_t position, bool value, size_t index) const {
        const size_t bytes = kv_bytes(a.type), slot = position % kKvPage;
        const size_t head_elements = kKvPage * (a.head_dim + a.value_dim);
        const size_t key = (slot / 16 * a.head_dim + index) * 16 + slot % 16;
        const size_t at = head * head_elements + (value ? kKvPage * a.head_dim + slot * a.value_dim + index : key);
        return run.pages[position / kKvPage] + a.layer_offset + at * bytes;
    }
    void write(size_t position, bool value, size_t index, float x) const {
        const uint16_t half = f32_to_f16(x);
        if (a.type == KvType::F16) {
            memcpy(element(position, value, index), &half, 2);
        } else {
            memcpy(element(position, value, index), &x, 4);
        }
    }
    float read(size_t position, bool value, size_t index) const {
        uint16_t half = 0;
        float x = 0;
        memcpy(a.type == KvType::F16 ? static_cast<void*>(&half) : &x, element(position, value, index), kv_bytes(a.type));
        return a.type == KvType::F16 ? f16_to_f32(half) : x;
    }
};

}  // namespace

Status attention_ref(const AttentionArgs& a) {
    const size_t value_stride = a.value_stride ? a.value_stride : a.value_dim;
    for (size_t i = 0; i < a.run_count; i++) {
        const AttentionRun& run = a.runs[i];
        for (size_t t = 0; t < run.count; t++) {
            const size_t row = run.first + t, position = run.start + t;
            for (size_t head = 0; head < a.kv_heads; head++) {
                const HeadCache cache = {a, run, head};
                for (size_t d = 0; d < a.head_dim; d++) cache.write(position, false, d, a.k[(row * a.kv_heads + head) * a.head_dim + d]);
                for (size_t d = 0; d < a.value_dim; d++) cache.write(position, true, d, a.v[(row * a.kv_heads + head) * value_stride + d]);
            }
        }
        for (size_t t = 0; t < run.count; t++) {
            for (size_t head = 0; head < a.heads; head++) {
                const HeadCache cache = {a, run, head / (a.heads / a.kv_heads)};
                const size_t query = (run.first + t) * a.heads + head, visible = run.start + t + 1, first = a.first_of(visible);
                std::vector<float> scores(visible);
                for (size_t p = first; p < visible; p++) {
                    float dot = 0;
                    for (size_t d = 0; d < a.head_dim; d++) dot = std::fma(cache.read(p, false, d), a.q[query * a.head_dim + d], dot);
                    scores[p] = dot * a.scale;
                }
                const float sum = exp_and_sum_ref(scores.data(), visible, first, a.sinks ? a.sinks + head : nullptr);
                for (size_t d = 0; d < a.value_dim; d++) {
                    float acc = 0;
                    for (size_t p = first; p < visible; p++) acc = std::fma(scores[p], cache.read(p, true, d), acc);
                    a.out[query * a.value_dim + d] = acc / sum;
                }
            }
        }
    }
    return {};
}

}  // namespace tmoe
