// expert_matmul's inner product: 16 interleaved rows × a tile of tokens. Written over Vec; include after math_simd.h.
//
// Every output element is one chain in column order (one fma per column of float weights, one per block of quantised ones),
// whatever the size of the tile, so that the number of tokens changes speed and never bits.
// A tile's activations are first laid out as a panel (per block or column: the tile's tokens side by side), so that the inner
// loop reads them at constant offsets. Panels cover kPanelColumns at a time; accumulators wait in memory between two panels.
#pragma once

namespace tmoe {
namespace {

constexpr size_t kPanelColumns = 2048;  // a multiple of every block; 12 tokens × 2048 int8 fill half of an L1 cache
constexpr size_t kPanelGroups = 16;     // row groups that share one panel

struct Panel {
    alignas(64) int8_t q[Vec::kTileTokens * kPanelColumns];
    alignas(64) float scale[Vec::kTileTokens * kPanelColumns / 32];
    alignas(64) int32_t sum[Vec::kTileTokens * kPanelColumns / 16];
};
constexpr size_t kFloatPanelColumns = 512;
struct FloatPanel {
    alignas(64) float x[Vec::kTileTokens * kFloatPanelColumns];
};

/** Copies `count` elements of a row into a panel of T tokens, `chunk` elements at a time. */
template <size_t T, size_t chunk, class E> inline void spread(const E* from, size_t count, size_t token, E* to) {
    for (size_t i = 0; i < count; i += chunk) memcpy(to + i * T + token * chunk, from + i, chunk * sizeof(E));
}

/** dot[t] += the dot product of a block of 32, whose weights are Codes::value of each nibble (0 to 63), with token t's activations. */
template <class Codes, size_t T> inline void dot_nibbles(const uint8_t* w, const int8_t* q, Vec::I* dot) {
    using V = Vec;
    for (size_t g = 0; g < 4; g++) {
        const V::W bytes = V::load_bytes(w + 64 * g);
        const V::W low = Codes::value(V::low_nibbles(bytes)), high = Codes::value(V::high_nibbles(bytes));
        for (size_t t = 0; t < T; t++) dot[t] = V::dot4_small(dot[t], low, q + t * 32 + 4 * g);
        for (size_t t = 0; t < T; t++) dot[t] = V::dot4_small(dot[t], high, q + t * 32 + 16 + 4 * g);
    }
}

struct Nibbles {
    static inline Vec::W value(Vec::W nibbles) { return nibbles; }
};

struct Q4_0 {
    static constexpr size_t kBlock = 32, kBytes = 288, kSums = 1;
    template <size_t T> static inline void run(const uint8_t* w, size_t blocks, const Panel& p, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < blocks; b++, w += kBytes) {
            V::I dot[T];
            for (size_t t = 0; t < T; t++) dot[t] = V::iset1(p.sum[b * T + t]);
            dot_nibbles<Nibbles, T>(w, p.q + b * 32 * T, dot);
            const V::F scale = V::load_f16(reinterpret_cast<const uint16_t*>(w + 256));
            for (size_t t = 0; t < T; t++) {
                acc[t] = V::fma(V::mul(scale, V::set1(p.scale[b * T + t])), V::to_float(dot[t]), acc[t]);
            }
        }
    }
};

struct MXFP4 {
    static constexpr size_t kBlock = 32, kBytes = 272, kSums = 1;
    static inline Vec::W value(Vec::W nibbles) {
        static constexpr uint8_t values[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};  // kE2M1 + 12
        return Vec::look_up(values, nibbles);
    }
    /** 2^(e − 128) of 16 exponents, as a product of two powers: denormals, of e = 0 and 1, have no exponent bits of their own. */
    static inline Vec::F scales(const uint8_t* exponents) {
        using V = Vec;
        const V::I e = V::iand(V::iload_i8(reinterpret_cast<const int8_t*>(exponents)), V::iset1(255));
        const V::I low = V::template sra<1>(e), high = V::template sra<1>(V::iadd(e, V::iset1(1)));
        return V::mul(V::from_bits(V::template shl<23>(V::iadd(low, V::iset1(127 - 63)))),
                      V::from_bits(V::template shl<23>(V::iadd(high, V::iset1(127 - 65)))));
    }
    template <size_t T> static inline void run(const uint8_t* w, size_t blocks, const Panel& p, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < blocks; b++, w += kBytes) {
            V::I dot[T];
            for (size_t t = 0; t < T; t++) dot[t] = V::iset1(p.sum[b * T + t] / 2 * 3);  // -8 Σq to -12 Σq
            dot_nibbles<MXFP4, T>(w, p.q + b * 32 * T, dot);
            const V::F scale = scales(w + 256);
            for (size_t t = 0; t < T; t++) {
                acc[t] = V::fma(V::mul(scale, V::set1(p.scale[b * T + t])), V::to_float(dot[t]), acc[t]);
            }
        }
    }
};

struct Q4_K {
    static constexpr size_t kBlock = 256, kBytes = 2304, kSums = 1;
    /** What is the same for four blocks of 32: their scales and minimums, one a byte. */
    struct Part {
        Vec::F d, dmin;
        Vec::I scales, minimums;
    };
    static inline Vec::I words(const uint8_t* at) { return Vec::iload(reinterpret_cast<const int32_t*>(at)); }
    template <size_t T, int i> static inline void one(const uint8_t* w, const Panel& p, size_t b, const Part& part, Vec::F* acc) {
        using V = Vec;
        V::I dot[T];
        for (size_t t = 0; t < T; t++) dot[t] = V::iset1(0);
        dot_nibbles<Nibbles, T>(w + 256 * i, p.q + (b + i) * 32 * T, dot);
        const V::I scale = V::iand(V::template sra<8 * i>(part.scales), V::iset1(63));
        const V::I minimum = V::iand(V::template sra<8 * i>(part.minimums), V::iset1(63));
        for (size_t t = 0; t < T; t++) {
            const V::F own = V::set1(p.scale[(b + i) * T + t]);
            const V::I below = V::imul(minimum, V::iset1(p.sum[(b + i) * T + t] / 8));  // -Σq minimums
            acc[t] = V::fma(V::mul(part.d, own), V::to_float(V::imul(dot[t], scale)), acc[t]);
            acc[t] = V::fma(V::mul(part.dmin, own), V::to_float(below), acc[t]);
        }
    }
    template <size_t T> static inline void four(const uint8_t* w, const Panel& p, size_t b, const Part& part, Vec::F* acc) {
        one<T, 0>(w, p, b, part, acc);
        one<T, 1>(w, p, b, part, acc);
        one<T, 2>(w, p, b, part, acc);
        one<T, 3>(w, p, b, part, acc);
    }
    template <size_t T> static inline void run(const uint8_t* w, size_t blocks, const Panel& p, Vec::F* acc) {
        using V = Vec;
        const V::I six = V::iset1(0x3f3f3f3f), low = V::iset1(0x0f0f0f0f), high = V::iset1(0x30303030);
        for (size_t big = 0; big < blocks; big++, w += kBytes) {
            const V::I a = words(w + 2112), m = words(w + 2176), rest = words(w + 2240);
            Part part{V::load_f16(reinterpret_cast<const uint16_t*>(w + 2048)), V::load_f16(reinterpret_cast<const uint16_t*>(w + 2080)),
                      V::iand(a, six), V::iand(m, six)};
            four<T>(w, p, 8 * big, part, acc);
            part.scales = V::iadd(V::iand(rest, low), V::iand(V::template sra<2>(a), high));
            part.minimums = V::iadd(V::iand(V::template sra<4>(rest), low), V::iand(V::template sra<2>(m), high));
            four<T>(w + 1024, p, 8 * big + 4, part, acc);
        }
    }
};

struct Q8_0 {
    static constexpr size_t kBlock = 32, kBytes = 544, kSums = 1;
    template <size_t T> static inline void run(const uint8_t* w, size_t blocks, const Panel& p, Vec::F* acc) {
        using V = Vec;
        for (size_t b = 0; b < blocks; b++, w += kBytes) {
            const int8_t* q = p.q + b * 32 * T;
            V::I dot[T];
            for (size_t t = 0; t < T; t++) dot[t] = V::template shl<4>(V::iset1(p.sum[b * T + t]));  // -8 Σq to -128 Σq
            for (size_t g = 0; g < 8; g++) {
                const V::W bytes = V::load_bytes(w + 64 * g);
                for (size_t t = 0; t < T; t++) dot[t] = V::dot4(dot[t], bytes, q + t * 32 + 4 * g);
            }
            const V::F scale = V::load_f16(reinterpret_cast<const uint16_t*>(w + 512));
            for (size_t t = 0; t < T; t++) {
                acc[t] = V::fma(V::mul(scale, V::set1(p.scale[b * T + t])), V::to_float(dot[t]), acc[t]);
            }
        }
    }
};

struct Q6_K {
    static constexpr size_t kBlock = 256, kBytes = 3360, kSums = 2;
    template <size_t T, size_t sub> static inline void half(const uint8_t* w, const int8_t* q, Vec::I* dot) {
        using V = Vec;
        const V::W bits = V::load_bytes(w + 256 + 64 * sub);
        const auto group = [&](auto field) {
            constexpr int f = decltype(field)::value;
            const V::W bytes = V::load_bytes(w + 64 * f);
            const V::W four = sub ? V::high_nibbles(bytes) : V::low_nibbles(bytes);
            const V::W six = V::template join_high_bits<f>(four, bits);
            for (size_t t = 0; t < T; t++) dot[t] = V::dot4_small(dot[t], six, q + t * 32 + 16 * sub + 4 * f);
        };
        group(std::integral_constant<int, 0>{});
        group(std::integral_constant<int, 1>{});
        group(std::integral_constant<int, 2>{});
        group(std::integral_constant<int, 3>{});
    }
    template <size_t T> static inline void run(const uint8_t* w, size_t blocks, const Panel& p, Vec::F* acc) {
        using V = Vec;
        for (size_t big = 0; big < blocks; big++, w += kBytes) {
            const V::F scale = V::load_f16(reinterpret_cast<const uint16_t*>(w + 3328));
            for (size_t b = 0; b < 8; b++) {
                const uint8_t* at = w + 416 * b;
                const size_t block = big * 8 + b;
                const int8_t* q = p.q + block * 32 * T;
                V::I first[T], second[T];
                for (size_t t = 0; t < T; t++) first[t] = V::iset1(p.sum[(block * T + t) * 2]);
                half<T, 0>(at, q, first);
                for (size_t t = 0; t < T; t++) second[t] = V::iset1(p.sum[(block * T + t) * 2 + 1]);
                half<T, 1>(at, q, second);
                const V::I s0 = V::iload_i8(reinterpret_cast<const int8_t*>(at + 384));
                const V::I s1 = V::iload_i8(reinterpret_cast<const int8_t*>(at + 400));
                for (size_t t = 0; t < T; t++) {
                    const V::I sum = V::iadd(V::imul(first[t], s0), V::imul(second[t], s1));
                    acc[t] = V::fma(V::mul(scale, V::set1(p.scale[block * T + t])), V::to_float(sum), acc[t]);
                }
            }
        }
    }
};

struct F32 {
    static constexpr size_t kBytes = 64;
    static inline Vec::F load(const uint8_t* w) { return Vec::load(reinterpret_cast<const float*>(w)); }
};
struct F16 {
    static constexpr size_t kBytes = 32;
    static inline Vec::F load(const uint8_t* w) { return Vec::load_f16(reinterpret_cast<const uint16_t*>(w)); }
};
struct BF16 {
    static constexpr size_t kBytes = 32;
    static inline Vec::F load(const uint8_t* w) { return Vec::load_bf16(reinterpret_cast<const uint16_t*>(w)); }
};

/** Where a tile's results go, and where its accumulators wait between panels. */
struct TileOutput {
    float* out;
    size_t stride, rows;
    bool add;
    const float* bias;
};

inline void write_rows(const TileOutput& o, size_t token, size_t group, Vec::F value) {
    const size_t row = group * kLanes, left = o.rows - row;
    float* at = o.out + token * o.stride + row;
    if (o.bias) value = Vec::add(value, load_some(o.bias + row, left, 0.0f));
    if (o.add) value = Vec::add(load_some(at, left, 0.0f), value);
    store_some(at, left, value);
}

/** One tile of T tokens × groups [first, last), the weights' columns panel by panel. */
template <class B, size_t T> void quantised_tile(const MatrixView& w, const ActivationView& a, const uint32_t* tokens,
                                                 const TileOutput& o, size_t first, size_t last) {
    const size_t group_bytes = w.columns / B::kBlock * B::kBytes;
    Panel panel;
    Vec::F waiting[kPanelGroups * T];
    for (size_t base = first; base < last; base += kPanelGroups) {
        const size_t end = base + kPanelGroups < last ? base + kPanelGroups : last;
        for (size_t column = 0; column < w.columns; column += kPanelColumns) {
            const size_t columns = w.columns - column < kPanelColumns ? w.columns - column : kPanelColumns;
            for (size_t t = 0; t < T; t++) {
                const size_t row = tokens[t] * a.columns + column;
                spread<T, 32>(a.q + row, columns, t, panel.q);
                spread<T, 1>(a.scale + row / 32, columns / 32, t, panel.scale);
                if (B::kSums == 2) {
                    spread<T, 2>(a.sum16 + row / 16, columns / 16, t, panel.sum);
                } else {
                    spread<T, 1>(a.sum + row / 32, columns / 32, t, panel.sum);
                }
            }
            for (size_t group = base; group < end; group++) {
                Vec::F acc[T];
                Vec::F* saved = waiting + (group - base) * T;
                for (size_t t = 0; t < T; t++) acc[t] = column == 0 ? Vec::set1(0.0f) : saved[t];
                B::template run<T>(w.packed + group * group_bytes + column / B::kBlock * B::kBytes, columns / B::kBlock,
                                   panel, acc);
                if (column + columns < w.columns) {
                    for (size_t t = 0; t < T; t++) saved[t] = acc[t];
                } else {
                    for (size_t t = 0; t < T; t++) write_rows(o, t, group, acc[t]);
                }
            }
        }
    }
}

template <class B, size_t T> void float_tile(const MatrixView& w, const ActivationView& a, const uint32_t* tokens,
                                             const TileOutput& o, size_t first, size_t last) {
    FloatPanel panel;
    Vec::F waiting[kPanelGroups * T];
    for (size_t base = first; base < last; base += kPanelGroups) {
        const size_t end = base + kPanelGroups < last ? base + kPanelGroups : last;
        for (size_t column = 0; column == 0 || column < w.columns; column += kFloatPanelColumns) {
            const size_t columns = w.columns - column < kFloatPanelColumns ? w.columns - column : kFloatPanelColumns;
            for (size_t t = 0; t < T; t++) spread<T, 1>(a.values + tokens[t] * a.value_stride + column, columns, t, panel.x);
            for (size_t group = base; group < end; group++) {
                const uint8_t* at = w.packed + (group * w.columns + column) * B::kBytes;
                Vec::F acc[T];
                Vec::F* saved = waiting + (group - base) * T;
                for (size_t t = 0; t < T; t++) acc[t] = column == 0 ? Vec::set1(0.0f) : saved[t];
                for (size_t c = 0; c < columns; c++) {
                    const Vec::F weights = B::load(at + c * B::kBytes);
                    for (size_t t = 0; t < T; t++) acc[t] = Vec::fma(weights, Vec::set1(panel.x[c * T + t]), acc[t]);
                }
                if (column + columns < w.columns) {
                    for (size_t t = 0; t < T; t++) saved[t] = acc[t];
                } else {
                    for (size_t t = 0; t < T; t++) write_rows(o, t, group, acc[t]);
                }
            }
        }
    }
}

using TileFn = void (*)(const MatrixView&, const ActivationView&, const uint32_t*, const TileOutput&, size_t, size_t);

template <class B, size_t... sizes> TileFn quantised_tile_of(size_t tokens, std::index_sequence<sizes...>) {
    static constexpr TileFn table[] = {quantised_tile<B, sizes + 1>...};
    return table[tokens - 1];
}
template <class B, size_t... sizes> TileFn float_tile_of(size_t tokens, std::index_sequence<sizes...>) {
    static constexpr TileFn table[] = {float_tile<B, sizes + 1>...};
    return table[tokens - 1];
}

inline TileFn tile_of(DType type, size_t tokens) {
    constexpr auto sizes = std::make_index_sequence<Vec::kTileTokens>{};
    switch (type) {
        case DType::Q4_0: return quantised_tile_of<Q4_0>(tokens, sizes);
        case DType::Q8_0: return quantised_tile_of<Q8_0>(tokens, sizes);
        case DType::Q4_K: return quantised_tile_of<Q4_K>(tokens, sizes);
        case DType::MXFP4: return quantised_tile_of<MXFP4>(tokens, sizes);
        case DType::Q6_K: return quantised_tile_of<Q6_K>(tokens, sizes);
        case DType::F16: return float_tile_of<F16>(tokens, sizes);
        case DType::BF16: return float_tile_of<BF16>(tokens, sizes);
        case DType::F32: break;
    }
    return float_tile_of<F32>(tokens, sizes);
}

inline void matmul(const MatrixView& w, const ActivationView& a, const uint32_t* gather, size_t count, float* out,
                   size_t out_stride, bool add, size_t first_group, size_t last_group) {
    if (count == 0) return;
    const size_t tiles = (count + Vec::kTileTokens - 1) / Vec::kTileTokens;
    for (size_t tile = 0; tile < tiles; tile++) {  // tiles of nearly equal size: 13 tokens are 7 + 6, not 12 + 1
        const size_t begin = count * tile / tiles, end = count * (tile + 1) / tiles;
        uint32_t tokens[Vec::kTileTokens];
        for (size_t t = begin; t < end; t++) tokens[t - begin] = gather ? gather[t] : static_cast<uint32_t>(t);
        const TileOutput o = {out + begin * out_stride, out_stride, w.rows, add, w.bias};
        tile_of(w.type, end - begin)(w, a, tokens, o, first_group, last_group);
    }
}

}  // namespace
}  // namespace tmoe
