// expert_matmul's inner product: 16 interleaved rows × a tile of tokens. Written over Vec; include after math_simd.h.
//
// Every output element is one chain in column order (one fma per column of float weights, one per block of quantised ones),
// whatever the size of the tile, so that the number of tokens changes speed and never bits.
// A tile's activations are first laid out as a panel (per block or column: the tile's tokens side by side), so that the inner
// loop reads them at constant offsets. A panel covers kColumns at a time; the chains wait in memory between two panels.
// The blocks of each quantised type: matmul_blocks_simd.h, and matmul_superblocks_simd.h for those of 256 columns.
#pragma once
#include "cpu/matmul_superblocks_simd.h"

namespace tmoe {
namespace {

constexpr size_t kPanelGroups = 16;     // row groups that share one panel

/** Copies `count` elements of a row into a panel of T tokens, `chunk` elements at a time. */
template <size_t T, size_t chunk, class E> inline void spread(const E* from, size_t count, size_t token, E* to) {
    for (size_t i = 0; i < count; i += chunk) memcpy(to + i * T + token * chunk, from + i, chunk * sizeof(E));
}

/** Columns from `column` on of row `row` to place `token`. */
template <size_t T> inline void fill(Panel& panel, DType type, const ActivationView& a, size_t row, size_t column, size_t columns, size_t token) {
    const size_t at = row * a.columns + column;
    spread<T, 32>(a.q + at, columns, token, panel.q);
    spread<T, 1>(a.scale + at / 32, columns / 32, token, panel.scale);
    if (type == DType::Q6_K) {
        spread<T, 2>(a.sum16 + at / 16, columns / 16, token, panel.sum16);
    } else {
        spread<T, 1>(a.sum + at / 32, columns / 32, token, panel.sum);
    }
}

/** Values of a tile's tokens, side by side for each column. */
struct FloatPanel {
    static constexpr size_t kColumns = 512;
    alignas(64) float x[Vec::kTileTokens * kColumns];
};

template <size_t T> inline void fill(FloatPanel& panel, DType, const ActivationView& a, size_t row, size_t column, size_t columns, size_t token) {
    spread<T, 1>(a.values + row * a.value_stride + column, columns, token, panel.x);
}

/** Weights that are not quantised. B gives load. */
template <class B> struct FloatColumns {
    using Inputs = FloatPanel;
    template <size_t T> static inline void run(const uint8_t* w, size_t columns, const FloatPanel& p, Vec::F* acc) {
        for (size_t c = 0; c < columns; c++) {
            const Vec::F weights = B::load(w + c * B::kBytes);
            for (size_t t = 0; t < T; t++) acc[t] = Vec::fma(weights, Vec::set1(p.x[c * T + t]), acc[t]);
        }
    }
};

struct F32 : FloatColumns<F32> {
    static constexpr size_t kBytes = 64;
    static inline Vec::F load(const uint8_t* w) { return Vec::load(reinterpret_cast<const float*>(w)); }
};
struct F16 : FloatColumns<F16> {
    static constexpr size_t kBytes = 32;
    static inline Vec::F load(const uint8_t* w) { return halves_at(w); }
};
struct BF16 : FloatColumns<BF16> {
    static constexpr size_t kBytes = 32;
    static inline Vec::F load(const uint8_t* w) { return Vec::load_bf16(reinterpret_cast<const uint16_t*>(w)); }
};

/** Where a tile's results go. */
struct TileOutput {
    float* out;
    size_t stride, rows;
    bool add;
    const float* bias;
};

__attribute__((noinline)) void write_rows(const TileOutput& o, size_t token, size_t group, Vec::F value) {
    const size_t row = group * kLanes, left = o.rows - row;
    float* at = o.out + token * o.stride + row;
    if (o.bias) value = Vec::add(value, load_some(o.bias + row, left, 0.0f));
    if (o.add) value = Vec::add(load_some(at, left, 0.0f), value);
    store_some(at, left, value);
}

/** Goes on with the chains of 16 rows × T tokens over some columns: all that is compiled for each type and T. */
template <class B, size_t T> void run_tile(const uint8_t* w, size_t columns, const typename B::Inputs& panel, Vec::F* chains) {
    Vec::F acc[T];
#pragma GCC unroll 16  // or GCC copies the array through memory
    for (size_t t = 0; t < T; t++) acc[t] = chains[t];
    B::template run<T>(w, columns, panel, acc);
#pragma GCC unroll 16
    for (size_t t = 0; t < T; t++) chains[t] = acc[t];
}
template <class P> using RunTile = void (*)(const uint8_t*, size_t, const P&, Vec::F*);

/** One tile of T tokens × groups [first, last), the weights' columns panel by panel. */
template <class P, size_t T> void walk_tile(RunTile<P> run, const MatrixView& w, const ActivationView& a, const uint32_t* tokens,
                                            const TileOutput& o, size_t first, size_t last) {
    const size_t group_bytes = kLanes * row_bytes(w.type, w.columns);
    P panel;
    Vec::F waiting[kPanelGroups * T];
    for (size_t base = first; base < last; base += kPanelGroups) {
        const size_t end = base + kPanelGroups < last ? base + kPanelGroups : last;
        for (size_t column = 0; column == 0 || column < w.columns; column += P::kColumns) {
            const size_t columns = w.columns - column < P::kColumns ? w.columns - column : P::kColumns;
            const uint8_t* at = w.packed + kLanes * row_bytes(w.type, column);
            for (size_t t = 0; t < T; t++) fill<T>(panel, w.type, a, tokens[t], column, columns, t);
            for (size_t group = base; group < end; group++) {
                Vec::F* chains = waiting + (group - base) * T;
                for (size_t t = 0; t < T && column == 0; t++) chains[t] = Vec::set1(0.0f);
                run(at + group * group_bytes, columns, panel, chains);
                if (column + columns < w.columns) continue;
                for (size_t t = 0; t < T; t++) write_rows(o, t, group, chains[t]);
            }
        }
    }
}

template <class B, size_t... sizes>
void typed_tile(const MatrixView& w, const ActivationView& a, const uint32_t* tokens, size_t count, const TileOutput& o, size_t first, size_t last,
                std::index_sequence<sizes...>) {
    using P = typename B::Inputs;
    static constexpr RunTile<P> runs[] = {run_tile<B, sizes + 1>...};
    static constexpr decltype(&walk_tile<P, 1>) walks[] = {walk_tile<P, sizes + 1>...};
    walks[count - 1](runs[count - 1], w, a, tokens, o, first, last);
}

inline void any_tile(const MatrixView& w, const ActivationView& a, const uint32_t* tokens, size_t count, const TileOutput& o, size_t first, size_t last) {
    constexpr auto sizes = std::make_index_sequence<Vec::kTileTokens>{};
    switch (w.type) {
        case DType::F32: return typed_tile<F32>(w, a, tokens, count, o, first, last, sizes);
        case DType::F16: return typed_tile<F16>(w, a, tokens, count, o, first, last, sizes);
        case DType::BF16: return typed_tile<BF16>(w, a, tokens, count, o, first, last, sizes);
        case DType::Q8_0: return typed_tile<Q8_0>(w, a, tokens, count, o, first, last, sizes);
        case DType::Q4_0: return typed_tile<Q4_0>(w, a, tokens, count, o, first, last, sizes);
        case DType::Q4_1: return typed_tile<Q4_1>(w, a, tokens, count, o, first, last, sizes);
        case DType::Q5_0: return typed_tile<Q5_0>(w, a, tokens, count, o, first, last, sizes);
        case DType::Q5_1: return typed_tile<Q5_1>(w, a, tokens, count, o, first, last, sizes);
        case DType::Q4_K: return typed_tile<Q4_K>(w, a, tokens, count, o, first, last, sizes);
        case DType::Q5_K: return typed_tile<Q5_K>(w, a, tokens, count, o, first, last, sizes);
        case DType::Q6_K: return typed_tile<Q6_K>(w, a, tokens, count, o, first, last, sizes);
        case DType::MXFP4: return typed_tile<MXFP4>(w, a, tokens, count, o, first, last, sizes);
        case DType::IQ4_NL: return typed_tile<IQ4_NL>(w, a, tokens, count, o, first, last, sizes);
        case DType::IQ4_XS: return typed_tile<IQ4_XS>(w, a, tokens, count, o, first, last, sizes);
    }
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
        any_tile(w, a, tokens, end - begin, o, first_group, last_group);
    }
}

}  // namespace
}  // namespace tmoe
