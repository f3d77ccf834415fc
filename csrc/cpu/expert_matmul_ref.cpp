// The naive twin of matmul and expert_matmul: weights in the file's layout, one output element at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/expert_matmul.h"
#include "cpu/math_ref.h"
#include "quant/blocks.h"

namespace tmoe {

namespace {

struct Block {
    int q[32];
    float scale;
};

/** Activations of one block of 32, as the contract says; false where one is not finite. */
bool quantise_block(const float* x, Block& out) {
    uint32_t most = 0;
    for (int i = 0; i < 32; i++) most = std::max(most, float_bits(x[i]) & 0x7fffffffu);
    if (most >= 0x7f800000u) return false;
    const float amax = bits_float(most);
    const bool zero = amax < 0x1p-119f;
    const float inverse = zero ? 0.0f : 127.0f / amax;
    for (int i = 0; i < 32; i++) out.q[i] = static_cast<int>(std::nearbyint(x[i] * inverse));
    out.scale = zero ? 0.0f : amax / 127.0f;
    return true;
}

/** The dot product of one row with quantised activations: exact integers per block of 32, one fma for each; types with minimums have a second for these. */
float dot_blocks(const RawMatrix& w, const uint8_t* row, const std::vector<Block>& a) {
    const DTypeInfo& info = dtype_info(w.type);
    const size_t parts = info.block / 32;
    float acc = 0;
    for (size_t b = 0; b < a.size(); b++) {
        const uint8_t* block = row + b / parts * info.bytes;
        const PartScales scales = scales_of(w.type, block, b % parts);
        int sum = 0, total = 0;
        for (size_t i = 0; i < 32; i++) {
            sum += sub_scale_at(w.type, block, b % parts, i) * code_at(w.type, block, b % parts, i) * a[b].q[i];
            total += a[b].q[i];
        }
        acc = std::fma(scales.scale * a[b].scale, static_cast<float>(sum), acc);
        if (has_minimum(w.type)) acc = std::fma(scales.minimum * a[b].scale, static_cast<float>(-scales.below * total), acc);
    }
    return acc;
}

}  // namespace

Status matmul_ref(const RawMatrix& w, const float* x, size_t count, float* out) {
    const size_t bytes = row_bytes(w.type, w.columns);
    std::vector<Block> blocks(w.columns / 32);
    std::vector<float> floats(w.columns);
    for (size_t i = 0; i < count; i++) {
        const float* own = x + i * w.columns;
        if (is_quantised(w.type)) {
            for (size_t b = 0; b < blocks.size(); b++) {
                if (quantise_block(own + 32 * b, blocks[b])) continue;
                return Status(StatusCode::RUNTIME_NAN_DETECTED, format("a value of row %zu is not finite", i)).with("token", static_cast<double>(i));
            }
        }
        for (size_t r = 0; r < w.rows; r++) {
            const uint8_t* row = w.raw + r * bytes;
            float acc = 0;
            if (is_quantised(w.type)) {
                acc = dot_blocks(w, row, blocks);
            } else {
                decode_row(w.type, row, floats.data(), w.columns);
                for (size_t c = 0; c < w.columns; c++) acc = std::fma(floats[c], own[c], acc);
            }
            out[i * w.rows + r] = w.bias ? acc + w.bias[r] : acc;
        }
    }
    return {};
}

Status expert_matmul_ref(const ExpertMatmulRefArgs& a) {
    const size_t hidden = a.gate.rows;
    TMOE_RETURN_IF_ERROR(check_dispatched(a.offsets, a.experts, a.slots, a.tokens * a.k));
    const auto expert_of = [](RawMatrix w, size_t expert) {
        w.raw += expert * w.rows * row_bytes(w.type, w.columns);
        if (w.bias) w.bias += expert * w.rows;
        return w;
    };
    std::vector<float> gate(hidden), up(hidden);
    size_t bad = a.tokens;  // the first token with a value that is not finite
    for (size_t e = 0; e < a.experts; e++) {
        for (size_t row = a.offsets[e]; row < a.offsets[e + 1]; row++) {
            const size_t token = a.slots[row] / a.k;
            const float* x = a.x + token * a.width;
            bool finite = matmul_ref(expert_of(a.gate, e), x, 1, gate.data()).ok();
            finite = matmul_ref(expert_of(a.up, e), x, 1, up.data()).ok() && finite;
            for (size_t i = 0; i < hidden; i++) gate[i] = a.activation == ExpertActivation::Silu ? silu_ref(gate[i]) * up[i] : clamped_swiglu_ref(gate[i], up[i]);
            finite = matmul_ref(expert_of(a.down, e), gate.data(), 1, a.out + row * a.width).ok() && finite;
            if (!finite) bad = std::min(bad, token);
        }
    }
    if (bad == a.tokens) return {};
    return Status(StatusCode::RUNTIME_NAN_DETECTED, format("expertMatmul: row %zu has a value that is not finite", bad))
        .with("token", static_cast<double>(bad));
}

}  // namespace tmoe
