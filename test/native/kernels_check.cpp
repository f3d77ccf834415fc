// Runs every kernel of the table over a grid of shapes for each instruction set of this machine, and prints one hash of all the
// results per kernel. Instruction sets must agree here; `scripts/check-neon.mjs` compares the hashes of x86 and AArch64 builds.
// Exit status 1 where two instruction sets differ. Needs no Node: it also runs under qemu-user.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "core/store/simulator.h"
#include "cpu/gated.h"
#include "cpu/head_matmul.h"
#include "cpu/isa_prelude.h"
#include "cpu/kernels.h"
#include "naive_packing.h"
#include "seeded.h"

using namespace tmoe;

namespace {

/** FNV-1a, 64 bits. */
struct Hash {
    uint64_t value = 0xcbf29ce484222325ull;
    void add(const void* data, size_t bytes) {
        for (size_t i = 0; i < bytes; i++) value = (value ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3ull;
    }
    template <class T> void add(const std::vector<T>& v) { add(v.data(), v.size() * sizeof(T)); }
    template <class T> void one(T v) { add(&v, sizeof v); }
};

int failures = 0;
void fail(const char* what) {
    fprintf(stderr, "%s\n", what);
    failures++;
}

const size_t kLengths[] = {1, 2, 15, 16, 17, 31, 33, 64, 100, 257};

/** Against a loop; and one value that is not finite is found wherever it stands. */
void check_block_maxima(const Kernels& k) {
    for (size_t n : {size_t{1}, size_t{16}, size_t{33}, kMaximaBlock - 1, kMaximaBlock, kMaximaBlock + 1, 3 * kMaximaBlock + 100}) {
        Seeded source{n + 5};
        std::vector<float> x = source.numbers(n), found((n + kMaximaBlock - 1) / kMaximaBlock), wanted(found.size(), -INFINITY);
        for (size_t i = 0; i < n; i++) wanted[i / kMaximaBlock] = std::max(wanted[i / kMaximaBlock], x[i]);
        if (!k.block_maxima(x.data(), n, found.data()) || found != wanted) fail("block_maxima has other maxima");
        for (size_t i = 0; i < n; i++) {
            const float own = x[i];
            for (float bad : {INFINITY, -INFINITY, NAN}) {
                x[i] = bad;
                if (k.block_maxima(x.data(), n, found.data())) fail("block_maxima takes a value for finite");
            }
            x[i] = own;
        }
    }
}

void hash_elementwise(const Kernels& k, Hash& norm, Hash& soft, Hash& logistic, Hash& silu, Hash& combined, Hash& state) {
    for (size_t n : kLengths) {
        Seeded source{n * 77 + 1};
        const std::vector<float> x = source.numbers(n), w = source.numbers(n);
        std::vector<float> out(n);
        norm.one(k.rms_norm(x.data(), w.data(), n, 1e-5f, out.data()));
        norm.add(out);
        out = x;
        k.softmax(out.data(), n);
        soft.add(out);
        out = x;
        k.sigmoid(out.data(), n);
        logistic.add(out);
        k.silu_mul(x.data(), w.data(), n, out.data());
        silu.add(out);
        for (size_t slots : {0, 1, 2, 3, 8}) {
            std::vector<std::vector<float>> rows;
            std::vector<const float*> pointers;
            for (size_t s = 0; s < slots; s++) rows.push_back(source.numbers(n));
            for (const std::vector<float>& row : rows) pointers.push_back(row.data());
            const std::vector<float> weights = source.numbers(slots);
            for (bool add : {false, true}) {
                out = w;
                k.combine_row(pointers.data(), weights.data(), slots, n, add, out.data());
                combined.add(out);
            }
        }
        std::vector<int32_t> a(n), b(n);
        state.one(k.quantise_state(x.data(), n, a.data()));
        state.one(k.quantise_state(w.data(), n, b.data()));
        state.add(a);
        state.one(k.dot_i64(a.data(), b.data(), n));
    }
}

void hash_matmul(const Kernels& k, Hash& quantised, Hash& product) {
    for (const auto& [type, name, block, bytes] : kDTypes) {
        for (size_t rows : {1, 16, 17, 50}) {
            for (size_t blocks : {1, 2, 9, 66}) {
                // The last is longer than what the kernels lay out at a time (512 columns of floats, 2048 of others), as are 9 blocks of 256.
                if (blocks == 66 && (rows != 17 || block == 256)) continue;
                const size_t columns = block == 1 ? blocks * 13 : blocks * block;
                Seeded source{rows * 1000 + columns};
                const size_t groups = (rows + kLanes - 1) / kLanes;
                std::vector<uint8_t> file(rows * row_bytes(type, columns));
                Buffer packed;  // weights and cache pages are aligned to 64 bytes
                if (!packed.allocate(packed_bytes(type, rows, columns)).ok()) return fail("no memory");
                for (size_t r = 0; r < rows; r++) {
                    uint8_t* row = file.data() + r * row_bytes(type, columns);
                    if (can_encode(type)) {
                        if (!encode_row(type, source.numbers(columns).data(), row, columns)) fail("a row was not encoded");
                        continue;
                    }
                    for (size_t i = 0; i < row_bytes(type, columns); i++) row[i] = static_cast<uint8_t>(source.next());
                    for (size_t b = 0; b < columns / block; b++, row += bytes) {
                        if (type == DType::MXFP4) row[0] = static_cast<uint8_t>(source.next() % 8 == 0 ? source.next() % 3 : 110 + source.next() % 20);
                        if (type != DType::MXFP4) store_u16(row + (type == DType::Q6_K ? 208 : 0), f32_to_f16(source.number() / 300));
                        if (has_minimum(type)) store_u16(row + 2, f32_to_f16(source.number() / 300));
                    }
                }
                for (size_t g = 0; g < groups; g++) {
                    const size_t left = rows - g * kLanes;
                    pack_group(type, file.data() + g * kLanes * row_bytes(type, columns), left < kLanes ? left : kLanes, columns,
                               packed.data() + g * packed_group_bytes(type, columns));
                }
                for (size_t tokens : {0, 1, 2, 5, 13, 25}) {
                    const std::vector<float> x = source.numbers(tokens * columns);
                    std::vector<ActivationBlock> activations(is_quantised(type) ? x.size() / kActBlock : 0);
                    ActivationView view{columns, x.data(), columns, nullptr};
                    if (is_quantised(type)) {
                        for (size_t at = 0; at < x.size(); at += columns) quantised.one(k.quantise_row(x.data() + at, columns, activations.data() + at / kActBlock));
                        quantised.add(activations);
                        view = {columns, nullptr, 0, activations.data()};
                    }
                    std::vector<uint32_t> gather(tokens);
                    for (size_t t = 0; t < tokens; t++) gather[t] = static_cast<uint32_t>(tokens - 1 - t);
                    std::vector<float> out(tokens * rows, 0.5f);
                    k.matmul({type, rows, columns, packed.data()}, view, {tokens, nullptr, out.data(), rows, false, 0, groups});
                    if (tokens <= 2 || blocks == 66) {
                        std::vector<float> naive(out.size());
                        const bool sound = matmul_ref({type, rows, columns, file.data()}, x.data(), tokens, naive.data()).ok();
                        if (!sound || memcmp(out.data(), naive.data(), out.size() * sizeof(float)) != 0) fail((std::string("matmul of ") + name + " differs from its naive twin").c_str());
                    }
                    k.matmul({type, rows, columns, packed.data()}, view, {tokens, gather.data(), out.data(), rows, true, 0, groups});
                    product.add(out);
                }
            }
        }
    }
}

void hash_attention(const Kernels& k, Hash& rotated, Hash& attended) {
    const size_t shapes[][2] = {{2, 1}, {6, 6}, {16, 16}, {18, 30}, {64, 64}, {128, 128}};
    for (const auto& shape : shapes) {
        const size_t head_dim = shape[0], value_dim = shape[1], positions = 150;
        Seeded source{head_dim * 31 + value_dim};
        const std::vector<float> cosines = source.numbers(head_dim / 2), sines = source.numbers(head_dim / 2);
        for (RopePairs pairs : {RopePairs::Neox, RopePairs::Interleaved}) {
            std::vector<float> x = source.numbers(3 * head_dim);
            k.rope(x.data(), 3, head_dim, head_dim, cosines.data(), sines.data(), pairs);
            rotated.add(x);
        }
        for (KvType type : {KvType::F16, KvType::F32}) {
            const size_t value_offset = kKvPage * head_dim * kv_bytes(type);
            const size_t page_bytes = value_offset + kKvPage * value_dim * kv_bytes(type);
            std::vector<Buffer> pages;
            std::vector<uint8_t*> pointers;
            for (size_t p = 0; p < positions; p++) {
                if (p % kKvPage == 0) {
                    pages.emplace_back();
                    if (!pages.back().allocate(page_bytes).ok()) return fail("no memory");
                }
                const std::vector<float> key = source.numbers(head_dim);
                const std::vector<float> value = source.numbers(value_dim);
                k.kv_write(pages.back().data(), 0, value_offset, type, p % kKvPage, key.data(), head_dim, value.data(), value_dim);
            }
            for (Buffer& page : pages) {
                pointers.push_back(page.data());
                attended.add(page.data(), page.size());
            }
            for (size_t rows = 1; rows <= kAttendRows; rows++) {
                std::vector<float> q = source.numbers(rows * head_dim), out(rows * value_dim), scores(rows * 160);
                AttendTile tile{};
                tile.rows = rows;
                for (size_t r = 0; r < rows; r++) {
                    tile.q[r] = q.data() + r * head_dim;
                    tile.visible[r] = rows == 1 ? 1 : positions - 3 * (rows - 1 - r);
                    tile.out[r] = out.data() + r * value_dim;
                }
                tile.pages = pointers.data();
                tile.value_offset = value_offset;
                tile.type = type;
                tile.head_dim = head_dim;
                tile.value_dim = value_dim;
                tile.scale = 0.25f;
                tile.scores = scores.data();
                tile.score_stride = 160;
                k.attend(tile);
                attended.add(out);
                const std::vector<float> together = out;
                tile.alone = true;
                k.attend(tile);
                if (memcmp(out.data(), together.data(), out.size() * sizeof(float)) != 0) fail("attend gives other bits where it reads ahead");
            }
        }
    }
}

/** Gates, and products of heads with a matrix each, against their naive twins. */
void hash_heads(const Kernels& k, ThreadPool& pool, Hash& gates, Hash& products) {
    const Context context{k, pool};
    for (size_t n : kLengths) {
        for (bool by_row : {false, true}) {
            Seeded source{n * 13 + by_row};
            const size_t rows = 3;
            const std::vector<float> gate = source.numbers(by_row ? rows : rows * n);
            std::vector<float> x = source.numbers(rows * n), naive = x;
            if (!gated(context, {x.data(), gate.data(), rows, n, by_row}, {}).ok() || !gated_ref({naive.data(), gate.data(), rows, n, by_row}).ok()) fail("gated");
            if (memcmp(x.data(), naive.data(), x.size() * sizeof(float)) != 0) fail("gated differs from its naive twin");
            gates.add(x);
        }
    }
    for (DType type : {DType::F32, DType::F16, DType::Q8_0, DType::Q4_0}) {
        for (size_t carried : {size_t{0}, size_t{6}}) {
            const size_t tokens = 3, heads = 5, rows = 21, columns = 64, row = row_bytes(type, columns), matrix = packed_bytes(type, rows, columns);
            Seeded source{carried + static_cast<size_t>(type) * 7 + 1};
            std::vector<uint8_t> file(heads * rows * row);
            for (size_t r = 0; r < heads * rows; r++) {
                if (!encode_row(type, source.numbers(columns).data(), file.data() + r * row, columns)) fail("a row was not encoded");
            }
            Buffer packed;
            ActivationBuffer scratch;
            if (!packed.allocate(heads * matrix).ok() || !scratch.reserve(tokens * heads, columns).ok()) return fail("no memory");
            for (size_t head = 0; head < heads; head++) pack_rows(type, file.data() + head * rows * row, rows, columns, packed.data() + head * matrix);
            const std::vector<float> x = source.numbers(tokens * heads * (columns + carried));
            std::vector<float> out(tokens * heads * (rows + carried)), naive(out.size());
            const bool ran = head_matmul(context, {x.data(), tokens, heads, {{type, rows, columns, packed.data()}, matrix}, carried, out.data()}, scratch, {}).ok();
            if (!ran || !head_matmul_ref({x.data(), tokens, heads, {type, rows, columns, file.data()}, carried, naive.data()}).ok()) fail("head_matmul");
            if (memcmp(out.data(), naive.data(), out.size() * sizeof(float)) != 0) fail("head_matmul differs from its naive twin");
            products.add(out);
        }
    }
}

/** Packed groups of every type, which must be those of the naive packing. */
uint64_t hash_packing() {
    Hash hash;
    for (const auto& [type, name, block, bytes] : kDTypes) {
        for (size_t rows : {1, 7, 15, 16}) {
            for (size_t blocks : {1, 2, 3, 7, 8, 9, 40}) {
                const size_t columns = blocks * block;
                Seeded source{rows * 1000 + columns};
                std::vector<uint8_t> file(rows * row_bytes(type, columns)), packed(packed_group_bytes(type, columns), 0xa5);
                for (uint8_t& byte : file) byte = static_cast<uint8_t>(source.next());
                pack_group(type, file.data(), rows, columns, packed.data());
                if (packed != naive_group(type, file.data(), rows, columns)) fail((std::string("packing of ") + name + " differs from the naive one").c_str());
                hash.add(packed);
            }
        }
    }
    return hash.value;
}

constexpr size_t kHashes = 12;
const char* const kNames[kHashes] = {"rms_norm", "softmax", "sigmoid", "silu_mul", "combine_row", "quantise_state",
                                     "quantise_row", "matmul", "rope", "attend", "gated", "head_matmul"};

}  // namespace

/** What the expert cache keeps, by what it learns in doubles: layers of different skew and drift, prefetches in between. */
static uint64_t hash_cache() {
    constexpr uint32_t layers = 6, experts = 24;
    Seeded source{99};
    std::vector<uint32_t> words;
    for (uint32_t step = 0; step < 400; step++) {
        words.insert(words.end(), {static_cast<uint32_t>(TraceKind::Step) | 3u << 8, 1, 1, 0});
        for (uint32_t layer = 0; layer < layers; layer++) {
            std::vector<uint32_t> record{layer};
            for (uint32_t e = 0; e < experts; e++) {
                if (source.next() % experts < (e * (layer + 1) + step / 40) % experts / 3) record.push_back(layer * experts + e);
            }
            words.push_back(static_cast<uint32_t>(TraceKind::Layer) | static_cast<uint32_t>(record.size() << 8));
            words.insert(words.end(), record.begin(), record.end());
            words.insert(words.end(), {static_cast<uint32_t>(TraceKind::Prefetch) | 2u << 8, kTraceAfterLayer, source.next() % (layers * experts)});
        }
    }
    Hash hash;
    for (size_t slots : {20, 50, 90}) {
        SimulationOptions options;
        options.cache.slots = slots;
        options.decisions = true;
        Simulation out;
        if (!simulate({layers, experts, words.data(), words.size()}, options, out).ok()) fail("the cache was not simulated");
        hash.add(out.decisions);
    }
    return hash.value;
}

int main() {
    std::vector<std::pair<std::string, const Kernels*>> tables;
    Isa isas[4];
    const size_t count = available_isas(isas);
    for (size_t i = 0; i < count; i++) tables.emplace_back(isa_name(isas[i]), find_kernels(isas[i]));
    // The build without FMA instructions: not offered where the CPU has them, but it must agree.
    if (const Kernels* soft = kernels_scalar_soft()) tables.emplace_back("scalar with software fma", soft);

    ThreadPool pool;
    if (!pool.start(2).ok()) fail("no threads");
    uint64_t first[kHashes];
    for (size_t i = 0; i < tables.size(); i++) {
        const Kernels& kernels = *tables[i].second;
        Hash hashes[kHashes];
        check_block_maxima(kernels);
        hash_elementwise(kernels, hashes[0], hashes[1], hashes[2], hashes[3], hashes[4], hashes[5]);
        hash_matmul(kernels, hashes[6], hashes[7]);
        hash_attention(kernels, hashes[8], hashes[9]);
        hash_heads(kernels, pool, hashes[10], hashes[11]);
        for (size_t h = 0; h < kHashes; h++) {
            if (i == 0) first[h] = hashes[h].value;
            if (hashes[h].value != first[h]) fail((std::string(kNames[h]) + ": " + tables[i].first + " differs from " + tables[0].first).c_str());
        }
        fprintf(stderr, "ran %s\n", tables[i].first.c_str());
    }
    for (size_t h = 0; h < kHashes; h++) printf("%s %016llx\n", kNames[h], static_cast<unsigned long long>(first[h]));
    printf("packing %016llx\n", static_cast<unsigned long long>(hash_packing()));
    printf("expert cache %016llx\n", static_cast<unsigned long long>(hash_cache()));
    return failures ? 1 : 0;
}
