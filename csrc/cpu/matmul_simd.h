// expert_matmul's inner product: 16 interleaved rows × a tile of tokens. Written over Vec; include after math_simd.h.
//
// Every output element is one chain in column order (one fma per column of float weights, one per block of quantised ones),
// whatever the size of the tile, so that the number of tokens changes speed and never bits.
// A tile's activations are first laid out as a panel (per block or column: the tile's tokens side by side), so that the inner
// loop reads them at constant offsets. Panels cover kPanelColumns at a time; accumulators wait in memory between two panels.
// The blocks of each quantised type: matmul_blocks_simd.h, and matmul_superblocks_simd.h for those of 256 columns.
#pragma once
#include "cpu/matmul_superblocks_simd.h"

namespace tmoe {
namespace {

constexpr size_t kPanelGroups = 16;     // row groups that share one panel
constexpr size_t kFloatPanelColumns = 512;
struct FloatPanel {
    alignas(64) float x[Vec::kTileTokens * kFloatPanelColumns];
};

/** Copies `count` elements of a row into a panel of T tokens, `chunk` elements at a time. */
template <size_t T, size_t chunk, class E> inline void spread(const E* from, size_t count, size_t token, E* to) {
    for (size_t i = 0; i < count; i += chunk) memcpy(to + i * T + token * chunk, from + i, chunk * sizeof(E));
}

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
        case DType::Q4_1: return quantised_tile_of<Q4_1>(tokens, sizes);
        case DType::Q5_0: return quantised_tile_of<Q5_0>(tokens, sizes);
        case DType::Q5_1: return quantised_tile_of<Q5_1>(tokens, sizes);
        case DType::MXFP4: return quantised_tile_of<MXFP4>(tokens, sizes);
        case DType::IQ4_NL: return quantised_tile_of<IQ4_NL>(tokens, sizes);
        case DType::Q4_K: return quantised_tile_of<Q4_K>(tokens, sizes);
        case DType::Q5_K: return quantised_tile_of<Q5_K>(tokens, sizes);
        case DType::Q6_K: return quantised_tile_of<Q6_K>(tokens, sizes);
        case DType::IQ4_XS: return quantised_tile_of<IQ4_XS>(tokens, sizes);
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
