// Experts of a GGUF file: slices of the stacked gate, up and down tensors, read in whole groups of 16 rows and packed on the way.
#include <algorithm>
#include <cstring>

#include "core/store/direct_file.h"
#include "core/store/expert_source.h"
#include "cpu/kernels.h"
#include "quant/repack.h"

namespace tmoe {

namespace {

uint64_t down_to_block(uint64_t offset) { return offset / kBlobAlignment * kBlobAlignment; }
uint64_t up_to_block(uint64_t offset) { return (offset + kBlobAlignment - 1) / kBlobAlignment * kBlobAlignment; }

/** One of an expert's three matrices: where its rows are, and how they are cut. */
struct Slice {
    ExpertPart part;
    uint64_t offset;      ///< of expert 0 in the file
    uint64_t stride;      ///< bytes from one expert's rows to the next one's
    size_t gap_end;       ///< of the blob: what is between the part and this is zero
    size_t groups, step;  ///< groups of 16 rows, and how many of them are one piece

    size_t pieces() const { return (groups + step - 1) / step; }
};

Slice make_slice(const ExpertPart& part, const GgufTensor& tensor, size_t gap_end) {
    const size_t row = row_bytes(part.type, part.columns), groups = (part.rows + kLanes - 1) / kLanes;
    const size_t pieces = std::min(groups, std::max<size_t>(1, (part.rows * row + kReadBytes / 2) / kReadBytes));
    return {part, tensor.offset, uint64_t{part.rows} * row, gap_end, groups, (groups + pieces - 1) / pieces};
}

class GgufSource final : public ExpertSource {
  public:
    explicit GgufSource(std::shared_ptr<DirectFile> file) : file_(std::move(file)) {}

    void add_layer(const GgufExperts& tensors, const ExpertLayout& layout) {
        slices_.push_back(make_slice(layout.gate, *tensors.gate, layout.up.offset));
        slices_.push_back(make_slice(layout.up, *tensors.up, layout.down.offset));
        slices_.push_back(make_slice(layout.down, *tensors.down, layout.bytes));
    }

    size_t pieces(uint32_t layer, uint32_t) const override {
        const Slice* slices = &slices_[3 * size_t{layer}];
        return slices[0].pieces() + slices[1].pieces() + slices[2].pieces();
    }

    uint64_t file_bytes(uint32_t layer, uint32_t) const override {
        const Slice* slices = &slices_[3 * size_t{layer}];
        return slices[0].stride + slices[1].stride + slices[2].stride;
    }

    Status read(uint32_t layer, uint32_t expert, size_t piece, uint8_t* blob, ReadScratch& scratch, const std::atomic<bool>* cancel, uint32_t&) const override {
        const Slice* slice = &slices_[3 * size_t{layer}];
        while (piece >= slice->pieces()) piece -= slice++->pieces();
        const ExpertPart& part = slice->part;
        const size_t row = row_bytes(part.type, part.columns), packed = packed_group_bytes(part.type, part.columns);
        const size_t first = piece * slice->step, last = std::min(slice->groups, first + slice->step);
        const size_t first_row = first * kLanes, rows = std::min(part.rows, last * kLanes) - first_row;
        const uint64_t begin = slice->offset + expert * slice->stride + uint64_t{first_row} * row, end = begin + rows * row;

        // The blocks of the file that hold the rows, at an address that is a block's.
        const uint64_t from = down_to_block(begin);
        const auto bytes = static_cast<size_t>(up_to_block(end) - from);
        TMOE_RETURN_IF_ERROR(scratch.raw.reserve(bytes + kBlobAlignment));
        uint8_t* raw = scratch.raw.data();
        raw += up_to_block(reinterpret_cast<uintptr_t>(raw)) - reinterpret_cast<uintptr_t>(raw);
        TMOE_RETURN_IF_ERROR(file_->read(from, raw, bytes, static_cast<size_t>(end - from)));

        if (cancel && cancel->load(std::memory_order_relaxed)) return Status(StatusCode::CANCELLED, "the read was cancelled");
        pack_rows(part.type, raw + (begin - from), rows, part.columns, blob + part.offset + first * packed);
        if (last == slice->groups) memset(blob + part.offset + part.bytes, 0, slice->gap_end - part.offset - part.bytes);
        return {};
    }

    Status check(uint32_t, uint32_t, const std::vector<uint32_t>&) const override { return {}; }  // the format has no checksums

  private:
    std::shared_ptr<DirectFile> file_;
    std::vector<Slice> slices_;  // gate, up, down of every layer
};

Status check_slice(const GgufTensor& tensor, const ExpertPart& part, size_t experts) {
    const uint64_t needed = uint64_t{experts} * part.rows * row_bytes(part.type, part.columns);
    if (tensor.type_id == static_cast<uint32_t>(part.type) && tensor.bytes >= needed) return {};
    return Status(StatusCode::TENSOR_SHAPE_MISMATCH, format("tensor '%s' does not hold %zu experts of %zu rows", tensor.name.c_str(), experts, part.rows))
        .with("tensor", tensor.name)
        .with("expected", static_cast<double>(needed))
        .with("actual", static_cast<double>(tensor.bytes));
}

}  // namespace

Status open_gguf_source(std::shared_ptr<GgufFile> file, std::vector<GgufExperts> layers, std::vector<ExpertLayout> layouts,
                        std::shared_ptr<ExpertSource>& out) {
    if (layers.size() != layouts.size()) return Status(StatusCode::VALIDATION_ERROR, format("%zu layers, %zu layouts", layers.size(), layouts.size()));
    std::shared_ptr<DirectFile> direct;
    TMOE_RETURN_IF_ERROR(DirectFile::open(file->path(), direct));
    if (!direct->is_same(file->descriptor())) {
        return Status(StatusCode::FILE_READ_FAILED, file->path() + ": another file has taken its place since it was opened").with("path", file->path());
    }
    auto source = std::make_shared<GgufSource>(std::move(direct));
    for (size_t layer = 0; layer < layers.size(); layer++) {
        const GgufExperts& tensors = layers[layer];
        const size_t experts = tensors.gate->shape.size() > 2 ? tensors.gate->shape[2] : 1;
        TMOE_RETURN_IF_ERROR(check_slice(*tensors.gate, layouts[layer].gate, experts));
        TMOE_RETURN_IF_ERROR(check_slice(*tensors.up, layouts[layer].up, experts));
        TMOE_RETURN_IF_ERROR(check_slice(*tensors.down, layouts[layer].down, experts));
        source->add_layer(tensors, layouts[layer]);
    }
    out = std::move(source);
    return {};
}

}  // namespace tmoe
