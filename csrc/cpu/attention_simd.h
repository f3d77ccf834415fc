// Attention of up to 8 query rows over one head's cache, and rotary embedding. Written over Vec; include after math_simd.h.
//
// A page holds, per layer and KV head: keys as blocks of 16 positions, [head_dim][16 positions], then values [position][value_dim].
// Scores: lane = key, one fma chain over the head dimension. Softmax: exact max, then the sum by absolute position mod 16, a sink last.
// Values: one fma chain over positions per output element, divided by the sum at the end. Blocks of 16 keys that no row sees are not read.
#pragma once

namespace tmoe {
namespace {

struct KvF16 {
    static constexpr size_t kBytes = 2;
    static inline Vec::F load(const uint8_t* p) { return Vec::load_f16(reinterpret_cast<const uint16_t*>(p)); }
    static inline Vec::F load_part(const uint8_t* p, size_t n) {
        uint16_t part[16] = {0};
        memcpy(part, p, n * 2);
        return Vec::load_f16(part);
    }
};
struct KvF32 {
    static constexpr size_t kBytes = 4;
    static inline Vec::F load(const uint8_t* p) { return Vec::load(reinterpret_cast<const float*>(p)); }
    static inline Vec::F load_part(const uint8_t* p, size_t n) {
        float part[16] = {0};
        memcpy(part, p, n * 4);
        return Vec::load(part);
    }
};

template <class Kv, size_t R> void score_rows(const AttendTile& t) {
    const size_t most = t.visible[R - 1];
    const Vec::F scale = Vec::set1(t.scale);
    for (size_t position = t.first[0] / kLanes * kLanes; position < most; position += kLanes) {
        const uint8_t* keys = t.pages[position / kKvPage] + t.key_offset +
                              position % kKvPage / kLanes * t.head_dim * kLanes * Kv::kBytes;
        Vec::F dot[R];
        for (size_t r = 0; r < R; r++) dot[r] = Vec::set1(0.0f);
        for (size_t d = 0; d < t.head_dim; d++) {
            const Vec::F key = Kv::load(keys + d * kLanes * Kv::kBytes);
            for (size_t r = 0; r < R; r++) dot[r] = Vec::fma(key, Vec::set1(t.q[r][d]), dot[r]);
        }
        for (size_t r = 0; r < R; r++) Vec::store(t.scores + r * t.score_stride + position, Vec::mul(dot[r], scale));
    }
}

/** Adds positions [from, to) to out lanes [d, d + 16·N) of R rows. */
template <class Kv, size_t R, size_t N> inline void add_values(const AttendTile& t, size_t row, size_t d, size_t from,
                                                               size_t to, Vec::F (*acc)[N]) {
    const size_t row_bytes = t.value_dim * Kv::kBytes;
    const size_t left = t.value_dim - d;
    size_t position = from;
    while (position < to) {
        const size_t page_end = (position / kKvPage + 1) * kKvPage, end = page_end < to ? page_end : to;
        const uint8_t* value = t.pages[position / kKvPage] + t.value_offset + position % kKvPage * row_bytes + d * Kv::kBytes;
        for (; position < end; position++, value += row_bytes) {
            Vec::F v[N];
            for (size_t n = 0; n < N; n++) {
                v[n] = left >= 16 * N ? Kv::load(value + 16 * n * Kv::kBytes) : Kv::load_part(value, left);
            }
            for (size_t r = 0; r < R; r++) {
                const Vec::F p = Vec::set1(t.scores[(row + r) * t.score_stride + position]);
                for (size_t n = 0; n < N; n++) acc[r][n] = Vec::fma(p, v[n], acc[r][n]);
            }
        }
    }
}

template <class Kv, size_t R, size_t N> inline void value_lanes(const AttendTile& t, const float* sums, size_t d) {
    Vec::F acc[R][N];
    for (size_t r = 0; r < R; r++) {
        for (size_t n = 0; n < N; n++) acc[r][n] = Vec::set1(0.0f);
    }
    // Rows see ascending ranges of positions: what all of them see together, the rest one row at a time.
    const size_t from = t.first[R - 1], to = t.visible[0] > from ? t.visible[0] : from;
    for (size_t r = 0; r < R; r++) add_values<Kv, 1, N>(t, r, d, t.first[r], from < t.visible[r] ? from : t.visible[r], acc + r);
    add_values<Kv, R, N>(t, 0, d, from, to, acc);
    for (size_t r = 0; r < R; r++) {
        add_values<Kv, 1, N>(t, r, d, to, t.visible[r], acc + r);
        for (size_t n = 0; n < N; n++) {
            const size_t at = d + 16 * n;
            store_some(t.out[r] + at, t.value_dim - at, Vec::div(acc[r][n], Vec::set1(sums[r])));
        }
    }
}

template <class Kv, size_t R> void attend_rows(const AttendTile& t) {
    score_rows<Kv, R>(t);
    float sums[R];
    for (size_t r = 0; r < R; r++) {
        float* scores = t.scores + r * t.score_stride;
        const size_t first = t.first[r], begin = first / kLanes * kLanes;
        float most = max_of(scores + first, t.visible[r] - first);
        if (t.sink[r] && *t.sink[r] > most) most = *t.sink[r];
        sums[r] = exp_and_sum(scores + begin, t.visible[r] - begin, most, first - begin);
        if (t.sink[r]) sums[r] = sums[r] + exp_one(*t.sink[r] - most);
    }
    size_t d = 0;
    for (; d + 16 * Vec::kValueVectors <= t.value_dim; d += 16 * Vec::kValueVectors) {
        value_lanes<Kv, R, Vec::kValueVectors>(t, sums, d);
    }
    for (; d < t.value_dim; d += 16) value_lanes<Kv, R, 1>(t, sums, d);
}

template <class Kv> inline void attend_typed(const AttendTile& t) {
    switch (t.rows) {
        case 1: return attend_rows<Kv, 1>(t);
        case 2: return attend_rows<Kv, 2>(t);
        case 3: return attend_rows<Kv, 3>(t);
        case 4: return attend_rows<Kv, 4>(t);
        case 5: return attend_rows<Kv, 5>(t);
        case 6: return attend_rows<Kv, 6>(t);
        case 7: return attend_rows<Kv, 7>(t);
        default: return attend_rows<Kv, 8>(t);
    }
}

inline void attend(const AttendTile& t) { t.type == KvType::F16 ? attend_typed<KvF16>(t) : attend_typed<KvF32>(t); }

inline void kv_write(uint8_t* page, size_t key_offset, size_t value_offset, KvType type, size_t slot, const float* k,
                     size_t head_dim, const float* v, size_t value_dim) {
    uint8_t* keys = page + key_offset + slot / kLanes * head_dim * kLanes * kv_bytes(type);
    uint8_t* values = page + value_offset + slot * value_dim * kv_bytes(type);
    const size_t lane = slot % kLanes;
    if (type == KvType::F32) {
        for (size_t d = 0; d < head_dim; d++) memcpy(keys + (d * kLanes + lane) * 4, k + d, 4);
        memcpy(values, v, value_dim * 4);
        return;
    }
    uint16_t half[16];
    for (size_t d = 0; d < head_dim; d += 16) {
        const size_t left = head_dim - d;
        Vec::store_f16(half, load_some(k + d, left, 0.0f));
        for (size_t i = 0; i < 16 && i < left; i++) memcpy(keys + ((d + i) * kLanes + lane) * 2, half + i, 2);
    }
    for (size_t d = 0; d < value_dim; d += 16) {
        const size_t left = value_dim - d;
        Vec::store_f16(half, load_some(v + d, left, 0.0f));
        memcpy(values + d * 2, half, (left < 16 ? left : 16) * 2);
    }
}

/** (a, b) becomes (a cos - b sin, b cos + a sin), each as one product and one fma. */
inline void rope(float* x, size_t heads, size_t head_dim, size_t rotary_dim, const float* cos, const float* sin,
                 RopePairs pairs) {
    const size_t half = rotary_dim / 2;
    for (size_t head = 0; head < heads; head++, x += head_dim) {
        if (pairs == RopePairs::Interleaved) {
            for (size_t i = 0; i < half; i++) {
                const float a = x[2 * i], b = x[2 * i + 1];
                x[2 * i] = __builtin_fmaf(a, cos[i], -(b * sin[i]));
                x[2 * i + 1] = __builtin_fmaf(b, cos[i], a * sin[i]);
            }
            continue;
        }
        for (size_t i = 0; i < half; i += 16) {
            const size_t left = half - i;
            const Vec::F a = load_some(x + i, left, 0.0f), b = load_some(x + half + i, left, 0.0f);
            const Vec::F c = load_some(cos + i, left, 0.0f), s = load_some(sin + i, left, 0.0f);
            const Vec::F zero = Vec::set1(-0.0f);
            store_some(x + i, left, Vec::fma(a, c, Vec::sub(zero, Vec::mul(b, s))));
            store_some(x + half + i, left, Vec::fma(b, c, Vec::mul(a, s)));
        }
    }
}

}  // namespace
}  // namespace tmoe
