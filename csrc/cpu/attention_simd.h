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

/**
 * Scores of R rows with B blocks of 16 keys, which stand one behind another: as many chains at a time, since each waits for itself. `next`: the
 * page that is read after this one. It is asked for now, because it lies elsewhere and memory takes longer than the work on a page's line.
 */
template <class Kv, size_t R, size_t B> inline void score_blocks(const AttendTile& t, size_t position, const uint8_t* next) {
    constexpr size_t kLine = 64 / (kLanes * Kv::kBytes);   // keys' elements in a line of the caches
    const size_t block_bytes = t.head_dim * kLanes * Kv::kBytes, offset = position % kKvPage / kLanes * block_bytes;
    const uint8_t* keys = t.pages[position / kKvPage] + t.key_offset + offset;
    Vec::F dots[R * B];
    repeat<R * B>([&](auto i) { dots[i] = Vec::set1(0.0f); });
    const auto add = [&](size_t d) {
        Vec::F key[B];
        repeat<B>([&](auto b) { key[b] = Kv::load(keys + b * block_bytes + d * kLanes * Kv::kBytes); });
        repeat<R>([&](auto r) {
            const Vec::F q = Vec::set1(t.q[r][d]);
            repeat<B>([&](auto b) { dots[r * B + b] = Vec::fma(key[b], q, dots[r * B + b]); });
        });
    };
    size_t d = 0;
    for (; d + kLine <= t.head_dim; d += kLine) {
        repeat<B>([&](auto b) { prefetch_line(next + offset + b * block_bytes + d * kLanes * Kv::kBytes); });
        repeat<kLine>([&](auto i) { add(d + i); });
    }
    for (; d < t.head_dim; d++) add(d);
    const Vec::F scale = Vec::set1(t.scale);
    repeat<R>([&](auto r) {
        repeat<B>([&](auto b) { Vec::store(t.scores + r * t.score_stride + position + b * kLanes, Vec::mul(dots[r * B + b], scale)); });
    });
}

template <class Kv, size_t R> TMOE_FLATTEN __attribute__((noinline)) void score_rows(const AttendTile& t) {
    constexpr size_t kBlocks = R >= Vec::kAttendSums ? 1 : Vec::kAttendSums / R < 4 ? Vec::kAttendSums / R : 4;
    const size_t most = t.visible[R - 1];
    for (size_t position = t.first[0] / kLanes * kLanes; position < most;) {
        const size_t left = (kKvPage - position % kKvPage) / kLanes, wanted = (most - position + kLanes - 1) / kLanes;
        const size_t page = position / kKvPage;
        const bool last = (page + 1) * kKvPage >= most;   // then the values come
        const uint8_t* next = !t.alone ? t.pages[page] + t.key_offset : last ? t.pages[t.first[0] / kKvPage] + t.value_offset : t.pages[page + 1] + t.key_offset;
        if (left >= kBlocks && wanted >= kBlocks) {
            score_blocks<Kv, R, kBlocks>(t, position, next);
            position += kBlocks * kLanes;
        } else {
            score_blocks<Kv, R, 1>(t, position, next);
            position += kLanes;
        }
    }
}

/**
 * Adds positions [from, to) of one page to out lanes [d, d + 16·N) of R rows, the first of which is `row`. `next`: as score_blocks has it, or null;
 * its same lanes are asked for, so that each pass over a page asks for its share of the next.
 */
template <class Kv, size_t R, size_t N>
TMOE_FLATTEN __attribute__((noinline)) void add_values(const AttendTile& t, size_t row, size_t d, size_t from, size_t to, const uint8_t* next) {
    const size_t row_bytes = t.value_dim * Kv::kBytes, left = t.value_dim - d, offset = from % kKvPage * row_bytes;
    const uint8_t* value = t.pages[from / kKvPage] + t.value_offset + offset + d * Kv::kBytes;
    const float* weights = t.scores + row * t.score_stride;
    Vec::F acc[R * N];
    repeat<R>([&](auto r) {
        repeat<N>([&](auto n) { acc[r * N + n] = N > 1 ? Vec::load(t.out[row + r] + d + 16 * n) : load_some(t.out[row + r] + d, left, 0.0f); });
    });
    for (size_t position = from; position < to; position++, value += row_bytes) {
        if (next) {
            for (size_t line = 0; line < 16 * N * Kv::kBytes; line += 64) prefetch_line(next + offset + (position - from) * row_bytes + d * Kv::kBytes + line);
        }
        Vec::F v[N];
        repeat<N>([&](auto n) { v[n] = N > 1 || left >= 16 ? Kv::load(value + 16 * n * Kv::kBytes) : Kv::load_part(value, left); });
        repeat<R>([&](auto r) {
            const Vec::F p = Vec::set1(weights[r * t.score_stride + position]);
            repeat<N>([&](auto n) { acc[r * N + n] = Vec::fma(p, v[n], acc[r * N + n]); });
        });
    }
    repeat<R>([&](auto r) {
        repeat<N>([&](auto n) {
            if (N > 1) Vec::store(t.out[row + r] + d + 16 * n, acc[r * N + n]);
            else store_some(t.out[row + r] + d, left, acc[r * N + n]);
        });
    });
}

/** All lanes from d on, N vectors at a time, what is left in fewer: few rows take many, so that a position's values are read as they stand. */
template <class Kv, size_t R, size_t N>
inline void add_lanes(const AttendTile& t, size_t row, size_t d, size_t from, size_t to, const uint8_t* next) {
    for (; d + 16 * N <= t.value_dim || (N == 1 && d < t.value_dim); d += 16 * N) {
        add_values<Kv, R, N>(t, row, d, from, to, next);
    }
    if constexpr (N > 1) add_lanes<Kv, R, N == 8 ? 4 : 1>(t, row, d, from, to, next);
}

/** Adds positions [from, to) to R rows of out, page by page. */
template <class Kv, size_t R> void add_range(const AttendTile& t, size_t row, size_t from, size_t to) {
    constexpr size_t kEach = Vec::kAttendSums / R;
    while (from < to) {
        const size_t page = from / kKvPage + 1, end = page * kKvPage < to ? page * kKvPage : to;
        const uint8_t* next = t.alone && end < to ? t.pages[page] + t.value_offset : t.then;
        add_lanes<Kv, R, kEach >= 8 ? 8 : kEach >= 4 ? 4 : kEach >= 2 ? 2 : 1>(t, row, 0, from, end, next);
        from = end;
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
        memset(t.out[r], 0, t.value_dim * sizeof(float));
    }
    // Rows see ascending ranges of positions: what all of them see together, the rest one row at a time.
    const size_t from = t.first[R - 1], to = t.visible[0] > from ? t.visible[0] : from;
    for (size_t r = 0; r < R; r++) add_range<Kv, 1>(t, r, t.first[r], from < t.visible[r] ? from : t.visible[r]);
    add_range<Kv, R>(t, 0, from, to);
    for (size_t r = 0; r < R; r++) {
        add_range<Kv, 1>(t, r, to, t.visible[r]);
        const Vec::F sum = Vec::set1(sums[r]);
        for (size_t d = 0; d < t.value_dim; d += 16) {
            store_some(t.out[r] + d, t.value_dim - d, Vec::div(load_some(t.out[r] + d, t.value_dim - d, 0.0f), sum));
        }
    }
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
