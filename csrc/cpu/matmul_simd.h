// expert_matmul's inner product: groups of 16 interleaved rows × a tile of tokens. Written over Vec; include after math_simd.h.
//
// Every output element is one chain in column order (one fma per column of float weights, one per block of quantised ones),
// whatever the size of the tile, so that the number of tokens changes speed and never bits.
// A tile has Vec::kTileGroups groups and at most Vec::kTileTokens tokens (stream_groups for few tokens): what is loaded of one is used for all
// of the other.
// The blocks of each quantised type: matmul_blocks_simd.h, and matmul_superblocks_simd.h for those of 256 columns.
#pragma once
#include <algorithm>

#include "cpu/matmul_superblocks_simd.h"

namespace tmoe {
namespace {

/** Tile for values that are not quantised. */
template <size_t R, size_t T> struct FloatTile {
    const float* tokens[T];
    size_t next;
    ReadAhead ahead;
};
template <class Input, size_t R, size_t T> using TileOf = std::conditional_t<std::is_same_v<Input, float>, FloatTile<R, T>, Tile<R, T>>;

/** Weights that are not quantised. B gives load. Where a tile asks for nothing else (no rate) it asks for what comes next of its own. */
template <class B> struct FloatColumns {
    using Input = float;
    static constexpr size_t kAhead = 24;   // lines of each group
    template <size_t R, size_t T> static inline void run(const uint8_t* w, size_t columns, const FloatTile<R, T>& tile, Vec::F* acc) {
        for (size_t c = 0; c < columns; c++, w += B::kBytes) {
            if (tile.ahead.rate) tile.ahead.ask(c);
            else if (c * B::kBytes % ReadAhead::kLine == 0) repeat<R>([&](auto r) { prefetch_passing(w + r * tile.next + kAhead * ReadAhead::kLine); });
            Vec::F weights[R];
            repeat<R>([&](auto r) { weights[r] = B::load(w + r * tile.next); });
            repeat<T>([&](auto t) {
                const Vec::F x = Vec::set1(tile.tokens[t][c]);
                repeat<R>([&](auto r) { acc[r * T + t] = Vec::fma(weights[r], x, acc[r * T + t]); });
            });
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

inline void write_rows(const MatrixView& w, const ProductPart& p, size_t token, size_t group, Vec::F value) {
    const size_t row = group * kLanes, left = w.rows - row;
    float* at = p.out + token * p.out_stride + row - p.first_group * kLanes;
    if (w.bias) value = Vec::add(value, load_some(w.bias + row, left, 0.0f));
    if (p.add) value = Vec::add(load_some(at, left, 0.0f), value);
    store_some(at, left, value);
}

/** The chains of R groups × T tokens from their begin to their end: all that is compiled for each type and size of a tile. */
template <class B, size_t R, size_t T>
TMOE_FLATTEN void run_tile(const uint8_t* w, size_t next, size_t columns, const typename B::Input* const* tokens, const ReadAhead& ahead, Vec::F* sums) {
    TileOf<typename B::Input, R, T> tile;
    tile.next = next;
    tile.ahead = ahead;
    repeat<T>([&](auto t) { tile.tokens[t] = tokens[t]; });
    Vec::F acc[R * T];
    repeat<R * T>([&](auto i) { acc[i] = Vec::set1(0.0f); });
    B::run(w, columns, tile, acc);
    repeat<R * T>([&](auto i) { sums[i] = acc[i]; });
}
template <class Input> using RunTile = void (*)(const uint8_t*, size_t, size_t, const Input* const*, const ReadAhead&, Vec::F*);
/** For each number of tokens, from 1 on. */
template <class Input> struct RunTiles {
    RunTile<Input> of[Vec::kTileTokens];
};

inline const float* row_of(const ActivationView& a, size_t row, const float*) { return a.values + row * a.value_stride; }
inline const ActivationBlock* row_of(const ActivationView& a, size_t row, const ActivationBlock*) { return a.blocks + row * (a.columns / kActBlock); }

/** Up to so many tokens wait for memory all the time. It is fastest in one stream, with a little more under way than is waited for. */
constexpr size_t kStreamTokens = Vec::kTileTokens < 4 ? Vec::kTileTokens : 4;

/**
 * Groups that are computed at once where weights pass in a stream: one that is quantised; more of others, whose every column is an fma that
 * waits for the one before it, four cycles for each 64 bytes of a group.
 */
template <class Input> constexpr size_t stream_groups(size_t tokens) { return !std::is_same_v<Input, float> ? 1 : tokens == 1 ? 4 : Vec::kTileGroups; }
constexpr size_t kMostSums = std::max(stream_groups<float>(1), Vec::kTileGroups * Vec::kTileTokens);

/** For a group whose `bytes` of weights at w are read in a stream; what is asked for after them is at `next`, null = unknown. */
inline ReadAhead ahead_in_stream(const uint8_t* w, size_t bytes, size_t steps, const uint8_t* next) {
    constexpr size_t kAhead = 72;   // lines: 4.6 KB
    const size_t lines = bytes / ReadAhead::kLine, rate = ((lines << 16) + steps - 1) / steps;
    return {w + kAhead * ReadAhead::kLine, rate, !next ? SIZE_MAX : lines > kAhead ? lines - kAhead : 0, next};
}

/** For tile `tile` of the `tiles` that use the same weights: its share of the `bytes` at `next`, null = nothing. */
inline ReadAhead ahead_in_share(const uint8_t* next, size_t bytes, size_t steps, size_t tile, size_t tiles) {
    if (!next) return {nullptr, 0};
    const size_t lines = bytes / ReadAhead::kLine, rate = ((lines << 16) + tiles * steps - 1) / (tiles * steps);
    return {next + lines * tile / tiles * ReadAhead::kLine, rate};
}

/** runs[R - 1][T - 1]: what computes a tile. `one`: the same for stream_groups(1) groups and one token. */
template <class Input> void walk_tiles(const RunTiles<Input>* runs, RunTile<Input> one, const MatrixView& w, const ActivationView& a, const ProductPart& p) {
    constexpr bool floats = std::is_same_v<Input, float>;
    const size_t group_bytes = kLanes * row_bytes(w.type, w.columns), steps = floats ? w.columns : w.columns / kActBlock;
    const size_t tiles = (p.count + Vec::kTileTokens - 1) / Vec::kTileTokens;
    const bool stream = p.count <= kStreamTokens;
    const size_t most = stream ? stream_groups<Input>(p.count) : Vec::kTileGroups;
    static_assert(Vec::kTileGroups <= 2, "what is left of a tile's groups is one");
    for (size_t group = p.first_group, groups; group < p.last_group; group += groups) {
        groups = std::min(most, p.last_group - group);
        if (groups < most) groups = std::min(groups, Vec::kTileGroups);
        const size_t bytes = groups * group_bytes;
        const uint8_t *weights = w.packed + group * group_bytes, *next = group + groups == p.last_group ? p.then : weights + bytes;
        for (size_t tile = 0; tile < tiles; tile++) {  // tiles of nearly equal size: 8 tokens are 4 + 4, not 6 + 2
            const size_t begin = p.count * tile / tiles, tokens = p.count * (tile + 1) / tiles - begin;
            const Input* rows[Vec::kTileTokens];
            for (size_t t = 0; t < tokens; t++) rows[t] = row_of(a, p.gather ? p.gather[begin + t] : begin + t, static_cast<const Input*>(nullptr));
            ReadAhead ahead{nullptr, 0};
            if (!stream) ahead = ahead_in_share(next, bytes, steps, tile, tiles);
            else if (!floats) ahead = ahead_in_stream(weights, bytes, steps, next);
            Vec::F sums[kMostSums];
            (groups > Vec::kTileGroups ? one : runs[groups - 1].of[tokens - 1])(weights, group_bytes, w.columns, rows, ahead, sums);
            for (size_t i = 0; i < groups * tokens; i++) write_rows(w, p, begin + i % tokens, group + i / tokens, sums[i]);
        }
    }
}

template <class B, size_t R, size_t... t> constexpr RunTiles<typename B::Input> runs_of(std::index_sequence<t...>) { return {{run_tile<B, R, t + 1>...}}; }

template <class B, size_t... r> void typed_tiles(const MatrixView& w, const ActivationView& a, const ProductPart& part, std::index_sequence<r...>) {
    static constexpr RunTiles<typename B::Input> runs[] = {runs_of<B, r + 1>(std::make_index_sequence<Vec::kTileTokens>{})...};
    walk_tiles(runs, run_tile<B, stream_groups<typename B::Input>(1), 1>, w, a, part);
}

inline void matmul(const MatrixView& w, const ActivationView& a, const ProductPart& part) {
    if (part.count == 0) return;
    constexpr auto sizes = std::make_index_sequence<Vec::kTileGroups>{};
    switch (w.type) {
        case DType::F32: return typed_tiles<F32>(w, a, part, sizes);
        case DType::F16: return typed_tiles<F16>(w, a, part, sizes);
        case DType::BF16: return typed_tiles<BF16>(w, a, part, sizes);
        case DType::Q8_0: return typed_tiles<Q8_0>(w, a, part, sizes);
        case DType::Q4_0: return typed_tiles<Q4_0>(w, a, part, sizes);
        case DType::Q4_1: return typed_tiles<Q4_1>(w, a, part, sizes);
        case DType::Q5_0: return typed_tiles<Q5_0>(w, a, part, sizes);
        case DType::Q5_1: return typed_tiles<Q5_1>(w, a, part, sizes);
        case DType::Q4_K: return typed_tiles<Q4_K>(w, a, part, sizes);
        case DType::Q5_K: return typed_tiles<Q5_K>(w, a, part, sizes);
        case DType::Q6_K: return typed_tiles<Q6_K>(w, a, part, sizes);
        case DType::MXFP4: return typed_tiles<MXFP4>(w, a, part, sizes);
        case DType::IQ4_NL: return typed_tiles<IQ4_NL>(w, a, part, sizes);
        case DType::IQ4_XS: return typed_tiles<IQ4_XS>(w, a, part, sizes);
    }
}

}  // namespace
}  // namespace tmoe
