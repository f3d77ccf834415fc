// Experts of a GGUF file, or of files that are read like one: slices of the stacked gate, up and down tensors, read in whole groups of 16 rows,
// converted where they are stored in another type, and packed on the way.
#include <algorithm>
#include <cstring>

#include "core/gathered_files.h"
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
    const GgufTensor* tensor;
    RowConverter rows;                 ///< from the stored type to the part's
    std::vector<StoredRows> experts;   ///< where each one's rows begin; none where they do not lie together
    size_t gap_end;                    ///< of the blob: what is between the part and this is zero
    size_t groups, step;               ///< groups of 16 rows, and how many of them are one piece

    size_t pieces() const { return (groups + step - 1) / step; }
    uint64_t bytes() const { return uint64_t{part.rows} * rows.from_bytes(); }
};

Slice make_slice(const GgufFile& file, const GgufTensor& tensor, const ExpertPart& part, size_t experts, size_t gap_end) {
    const RowConverter rows(static_cast<DType>(file.stored_type(tensor)), part.type, part.columns);
    const size_t groups = (part.rows + kLanes - 1) / kLanes;
    const size_t pieces = std::min(groups, std::max<size_t>(1, (part.rows * rows.from_bytes() + kReadBytes / 2) / kReadBytes));
    Slice slice{part, &tensor, rows, {}, gap_end, groups, (groups + pieces - 1) / pieces};
    for (size_t expert = 0; expert < experts && file.stored_together(tensor, part.rows); expert++) slice.experts.push_back(file.stored_rows(tensor, expert * part.rows));
    return slice;
}

class GgufSource final : public ExpertSource {
  public:
    GgufSource(std::shared_ptr<GgufFile> file, std::vector<std::shared_ptr<DirectFile>> files) : file_(std::move(file)), files_(std::move(files)) {}

    void add_layer(const GgufExperts& tensors, const ExpertLayout& layout, size_t experts) {
        slices_.push_back(make_slice(*file_, *tensors.gate, layout.gate, experts, layout.up.offset));
        slices_.push_back(make_slice(*file_, *tensors.up, layout.up, experts, layout.down.offset));
        slices_.push_back(make_slice(*file_, *tensors.down, layout.down, experts, layout.bytes));
    }

    size_t pieces(uint32_t layer, uint32_t) const override {
        const Slice* slices = &slices_[3 * size_t{layer}];
        return slices[0].pieces() + slices[1].pieces() + slices[2].pieces();
    }

    uint64_t file_bytes(uint32_t layer, uint32_t) const override {
        const Slice* slices = &slices_[3 * size_t{layer}];
        return slices[0].bytes() + slices[1].bytes() + slices[2].bytes();
    }

    Status read(uint32_t layer, uint32_t expert, size_t piece, uint8_t* blob, ReadScratch& scratch, const std::atomic<bool>* cancel, uint32_t&) const override {
        const Slice* slice = &slices_[3 * size_t{layer}];
        while (piece >= slice->pieces()) piece -= slice++->pieces();
        const ExpertPart& part = slice->part;
        const size_t packed = packed_group_bytes(part.type, part.columns);
        const size_t first = piece * slice->step, last = std::min(slice->groups, first + slice->step);
        const size_t first_row = first * kLanes, rows = std::min(part.rows, last * kLanes) - first_row;
        const uint8_t* wanted = nullptr;
        TMOE_RETURN_IF_ERROR(slice->experts.empty() ? read_apart(*slice, expert, first_row, rows, scratch, wanted) : read_direct(*slice, expert, first_row, rows, scratch, wanted, cancel));
        if (cancel && cancel->load(std::memory_order_relaxed)) return Status(StatusCode::CANCELLED, "the read was cancelled");
        pack_rows(part.type, wanted, rows, part.columns, blob + part.offset + first * packed);
        if (last == slice->groups) memset(blob + part.offset + part.bytes, 0, slice->gap_end - part.offset - part.bytes);
        return {};
    }

    Status check(uint32_t, uint32_t, const std::vector<uint32_t>&) const override { return {}; }  // the format has no checksums

  private:
    /** Rows that lie together, past the page cache: `out` is where they are then. */
    Status read_direct(const Slice& slice, uint32_t expert, size_t first_row, size_t rows, ReadScratch& scratch, const uint8_t*& out, const std::atomic<bool>* cancel) const {
        const size_t row = slice.rows.from_bytes();
        const StoredRows& place = slice.experts[expert];
        const DirectFile& file = *files_[place.file];
        const uint64_t begin = place.offset + uint64_t{first_row} * row, end = begin + rows * row;

        // The blocks of the file that hold the rows, at an address that is a block's.
        const uint64_t from = down_to_block(begin);
        const auto bytes = static_cast<size_t>(up_to_block(end) - from);
        TMOE_RETURN_IF_ERROR(scratch.raw.reserve(bytes + kBlobAlignment));
        uint8_t* raw = scratch.raw.data();
        raw += up_to_block(reinterpret_cast<uintptr_t>(raw)) - reinterpret_cast<uintptr_t>(raw);
        TMOE_RETURN_IF_ERROR(file.read(from, raw, bytes, static_cast<size_t>(end - from)));

        out = raw + (begin - from);
        if (slice.rows.same() || (cancel && cancel->load(std::memory_order_relaxed))) return {};
        TMOE_RETURN_IF_ERROR(scratch.converted.reserve(rows * slice.rows.to_bytes()));
        TMOE_RETURN_IF_ERROR(slice.rows.convert(out, rows, scratch.converted.data(), scratch.floats, file.path(), slice.tensor->name, uint64_t{expert} * slice.part.rows + first_row));
        out = scratch.converted.data();
        return {};
    }

    /** Rows that are put together from many places: the page cache makes one read of them. */
    Status read_apart(const Slice& slice, uint32_t expert, size_t first_row, size_t rows, ReadScratch& scratch, const uint8_t*& out) const {
        const size_t row = slice.rows.to_bytes();
        TMOE_RETURN_IF_ERROR(scratch.converted.reserve(rows * row));
        out = scratch.converted.data();
        return file_->read(*slice.tensor, (uint64_t{expert} * slice.part.rows + first_row) * row, scratch.converted.data(), rows * row);
    }

    std::shared_ptr<GgufFile> file_;
    std::vector<std::shared_ptr<DirectFile>> files_;
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

Status open_files(const GgufFile& file, std::vector<std::shared_ptr<DirectFile>>& out) {
    out.resize(file.files());
    for (size_t i = 0; i < out.size(); i++) {
        const std::string& path = file.file_path(i);
        TMOE_RETURN_IF_ERROR(DirectFile::open(path, out[i]));
        if (out[i]->is_same(file.descriptor(i))) continue;
        return Status(StatusCode::FILE_READ_FAILED, path + ": another file has taken its place since it was opened").with("path", path);
    }
    return {};
}

}  // namespace

Status open_gguf_source(std::shared_ptr<GgufFile> file, std::vector<GgufExperts> layers, std::vector<ExpertLayout> layouts,
                        std::shared_ptr<ExpertSource>& out) {
    if (layers.size() != layouts.size()) return Status(StatusCode::VALIDATION_ERROR, format("%zu layers, %zu layouts", layers.size(), layouts.size()));
    std::vector<std::shared_ptr<DirectFile>> files;
    TMOE_RETURN_IF_ERROR(open_files(*file, files));
    auto source = std::make_shared<GgufSource>(file, std::move(files));
    for (size_t layer = 0; layer < layers.size(); layer++) {
        const GgufExperts& tensors = layers[layer];
        const size_t experts = tensors.gate->shape.size() > 2 ? tensors.gate->shape[2] : 1;
        TMOE_RETURN_IF_ERROR(check_slice(*tensors.gate, layouts[layer].gate, experts));
        TMOE_RETURN_IF_ERROR(check_slice(*tensors.up, layouts[layer].up, experts));
        TMOE_RETURN_IF_ERROR(check_slice(*tensors.down, layouts[layer].down, experts));
        source->add_layer(tensors, layouts[layer], experts);
    }
    out = std::move(source);
    return {};
}

}  // namespace tmoe
