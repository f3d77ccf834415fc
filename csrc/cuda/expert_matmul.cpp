#include "cuda/expert_matmul.h"

namespace tmoe {
namespace cuda {

Status ExpertMemory::Rows::reserve(size_t rows, size_t columns) {
    TMOE_RETURN_IF_ERROR(q.reserve(rows * columns));
    TMOE_RETURN_IF_ERROR(scale.reserve(rows * columns / 32 * sizeof(float)));
    TMOE_RETURN_IF_ERROR(sum.reserve(rows * columns / 32 * sizeof(int32_t)));
    return sum16.reserve(rows * columns / 16 * sizeof(int32_t));
}

void ExpertMemory::Rows::attach(DeviceActivations& view) const {
    view.q = q.as<int8_t>();
    view.scale = scale.as<float>();
    view.sum = sum.as<int32_t>();
    view.sum16 = sum16.as<int32_t>();
}

QuantiseCall ExpertMemory::Rows::call(const float* from, size_t rows, size_t columns) const {
    return {from, rows, columns, columns, q.as<int8_t>(), scale.as<float>(), sum.as<int32_t>(), sum16.as<int32_t>()};
}

Status ExpertMemory::reserve(size_t tokens, size_t k, size_t width, size_t hidden_width) {
    if (width % 32 == 0) TMOE_RETURN_IF_ERROR(x.reserve(tokens, width));
    if (hidden_width % 32 == 0) TMOE_RETURN_IF_ERROR(hidden.reserve(tokens * k, hidden_width));
    TMOE_RETURN_IF_ERROR(gate.reserve(tokens * k * hidden_width * sizeof(float)));
    return up.reserve(tokens * k * hidden_width * sizeof(float));
}

size_t ExpertMemory::bytes(size_t tokens, size_t k, size_t width, size_t hidden_width) {
    return Rows::bytes(tokens, width) + Rows::bytes(tokens * k, hidden_width) + 2 * tokens * k * hidden_width * sizeof(float);
}

Status begin_expert_matmul(Stream& stream, const ExpertCall& c, const ExpertMemory& memory) {
    if (!is_quantised(c.gate.shape.type) && !is_quantised(c.up.shape.type)) return {};
    QuantiseCall q = memory.x.call(c.x, c.tokens, c.width);
    q.marks = c.marks;
    return quantise(stream, q);
}

Status expert_matmul_part(Stream& stream, const DeviceFacts& device, const ExpertCall& c, const ExpertMemory& memory, MatmulForm form) {
    const size_t hidden = c.gate.shape.rows;
    const auto form_of = [&](const ExpertStack& weight) { return form == MatmulForm::Tiles && !is_quantised(weight.shape.type) ? MatmulForm::Rows : form; };
    MatmulCall in;
    in.weight = c.gate;
    in.up = c.up;
    in.fused = c.gate.shape.type == c.up.shape.type;
    in.activation = c.activation;
    in.a.columns = in.a.value_stride = c.width;
    in.a.values = c.x;
    memory.x.attach(in.a);
    in.count = c.tokens;
    in.offsets = c.offsets;
    in.slots = c.slots;
    in.k = static_cast<uint32_t>(c.k);
    in.experts = c.part;
    in.expert_count = c.part ? c.part_count : c.experts;
    in.out = memory.gate.as<float>();
    in.out_stride = hidden;
    TMOE_RETURN_IF_ERROR(matmul(stream, device, in, form_of(in.weight)));
    if (!in.fused) {
        MatmulCall up = in;
        up.weight = c.up;
        up.out = memory.up.as<float>();
        TMOE_RETURN_IF_ERROR(matmul(stream, device, up, form_of(up.weight)));
        TMOE_RETURN_IF_ERROR(silu_mul(stream, in, up.out));
    }
    MatmulCall down;
    down.weight = c.down;
    down.a.columns = down.a.value_stride = hidden;
    down.a.values = memory.gate.as<float>();
    if (is_quantised(c.down.shape.type)) {
        QuantiseCall q = memory.hidden.call(down.a.values, c.tokens, hidden);
        q.marks = c.marks;
        q.offsets = c.offsets;
        q.slots = c.slots;
        q.experts = c.part;
        q.expert_count = in.expert_count;
        q.k = in.k;
        TMOE_RETURN_IF_ERROR(quantise(stream, q));
        memory.hidden.attach(down.a);
    }
    down.count = c.tokens;
    down.offsets = c.offsets;
    down.experts = c.part;
    down.expert_count = in.expert_count;
    down.out = c.out;
    down.out_stride = c.width;
    return matmul(stream, device, down, form_of(down.weight));
}

Status expert_matmul(Stream& stream, const DeviceFacts& device, const ExpertCall& c, const ExpertMemory& memory, MatmulForm form) {
    TMOE_RETURN_IF_ERROR(begin_expert_matmul(stream, c, memory));
    return expert_matmul_part(stream, device, c, memory, form);
}

}  // namespace cuda
}  // namespace tmoe
