// attention: the cache is written, then rows (token, head) are attended in four steps: scores, largest and sum, values.
// A thread has one score (its chain runs over the head dimension) or one output (its chain runs over the positions).
#include "cpu/attention.h"
#include "cuda/dense.h"
#include "cuda/math.h"

namespace tmoe {
namespace cuda {

namespace {

constexpr unsigned kThreads = 128;

/** Where one KV head's keys and values stand in the pages of a token's sequence: as cpu/attention_simd.h describes it. */
struct HeadCache {
    uint8_t* const* pages;
    size_t key_offset, value_offset, head_dim, value_dim, bytes;

    __device__ HeadCache(const AttentionCall& c, size_t token, size_t head)
        : pages(c.pages + c.first_pages[token]), head_dim(c.head_dim), value_dim(c.value_dim), bytes(c.type == KvType::F16 ? 2 : 4) {
        key_offset = c.layer_offset + head * kKvPage * (head_dim + value_dim) * bytes;
        value_offset = key_offset + kKvPage * head_dim * bytes;
    }
    __device__ uint8_t* key(size_t position, size_t d) const {
        const size_t slot = position % kKvPage;
        return pages[position / kKvPage] + key_offset + ((slot / 16 * head_dim + d) * 16 + slot % 16) * bytes;
    }
    __device__ uint8_t* value(size_t position, size_t d) const {
        return pages[position / kKvPage] + value_offset + (position % kKvPage * value_dim + d) * bytes;
    }
};

__device__ inline float read_cache(KvType type, const uint8_t* at) {
    return type == KvType::F16 ? half_to_float(*reinterpret_cast<const uint16_t*>(at)) : *reinterpret_cast<const float*>(at);
}
__device__ inline void write_cache(KvType type, uint8_t* at, float x) {
    if (type == KvType::F16) {
        *reinterpret_cast<uint16_t*>(at) = f32_to_f16(x);
    } else {
        *reinterpret_cast<float*>(at) = x;
    }
}

__global__ void write_kernel(AttentionCall c) {
    const size_t token = blockIdx.x, head = blockIdx.y, row = token * c.kv_heads + head, position = c.positions[token];
    const HeadCache cache(c, token, head);
    for (size_t d = threadIdx.x; d < c.head_dim; d += kThreads) write_cache(c.type, cache.key(position, d), c.k[row * c.head_dim + d]);
    for (size_t d = threadIdx.x; d < c.value_dim; d += kThreads) write_cache(c.type, cache.value(position, d), c.v[row * (c.value_stride ? c.value_stride : c.value_dim) + d]);
}

/** Row (token, query head) of this block: rows of a pass begin at `first`. */
struct Row {
    size_t token, head, visible, first;
    float* scores;
    __device__ Row(const AttentionCall& c, size_t begin, size_t index)
        : token((begin + index) / c.heads), head((begin + index) % c.heads), visible(size_t{c.positions[token]} + 1),
          first(c.window > 0 && visible > c.window ? visible - c.window : 0), scores(c.scores + index * c.most_visible) {}
};

__global__ void scores_kernel(AttentionCall c, size_t first) {
    const Row row(c, first, blockIdx.y);
    const HeadCache cache(c, row.token, row.head / (c.heads / c.kv_heads));
    const float* q = c.q + (row.token * c.heads + row.head) * c.head_dim;
    const size_t position = size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (position >= row.visible || position < row.first) return;
    const uint8_t* key = cache.key(position, 0);
    float dot = 0;
    for (size_t d = 0; d < c.head_dim; d++) dot = fmaf(read_cache(c.type, key + d * 16 * cache.bytes), q[d], dot);
    row.scores[position] = dot * c.scale;
}

__global__ void values_kernel(AttentionCall c, size_t first) {
    SoftmaxScratch& scratch = *block_memory<SoftmaxScratch>();
    const Row row(c, first, blockIdx.x);
    const HeadCache cache(c, row.token, row.head / (c.heads / c.kv_heads));
    float most = block_max(row.scores + row.first, row.visible - row.first, scratch);
    if (c.sinks && c.sinks[row.head] > most) most = c.sinks[row.head];
    float sum = block_exp_and_sum(row.scores, row.visible, most, scratch, row.first);
    if (c.sinks) sum = sum + exp_of(c.sinks[row.head] - most);
    float* out = c.out + (row.token * c.heads + row.head) * c.value_dim;
    for (size_t d = threadIdx.x; d < c.value_dim; d += kThreads) {
        float acc = 0;
        for (size_t begin = row.first, end; begin < row.visible; begin = end) {
            end = (begin / kKvPage + 1) * kKvPage;  // of the page
            end = end < row.visible ? end : row.visible;
            const uint8_t* value = cache.value(begin, d);
            for (size_t position = begin; position < end; position++, value += c.value_dim * cache.bytes) {
                acc = fmaf(row.scores[position], read_cache(c.type, value), acc);
            }
        }
        out[d] = acc / sum;
    }
}

}  // namespace

Status attention(Stream& stream, const AttentionCall& c) {
    TMOE_RETURN_IF_ERROR(launch("kv_write", stream, {c.tokens, c.kv_heads}, kThreads, 0, write_kernel, c));
    const size_t rows = c.tokens * c.heads, most = c.score_rows < kMostGridYZ ? c.score_rows : kMostGridYZ;
    for (size_t first = 0; first < rows; first += most) {
        const size_t count = rows - first < most ? rows - first : most;
        TMOE_RETURN_IF_ERROR(launch("attention scores", stream, {(c.most_visible + kThreads - 1) / kThreads, count}, kThreads, 0, scores_kernel, c, first));
        TMOE_RETURN_IF_ERROR(launch("attention values", stream, {count}, kThreads, sizeof(SoftmaxScratch), values_kernel, c, first));
    }
    return {};
}

}  // namespace cuda
}  // namespace tmoe
