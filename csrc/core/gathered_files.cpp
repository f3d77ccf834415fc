#include "core/gathered_files.h"

#include <algorithm>
#include <cstring>

#include "core/grid_read.h"
#include "core/model_file.h"
#include "quant/blocks.h"

namespace tmoe {

namespace {

constexpr size_t kReadBytes = size_t{1} << 20;        // of stored rows at a time
constexpr uint64_t kMostStep = uint64_t{1} << 53;    // weights; times their bytes it is no overflow

Status wrong(const GgufTensor& tensor, const std::string& why) {
    return Status(StatusCode::VALIDATION_ERROR, "tensor " + tensor.name + ": " + why).with("argument", "tensors").with("tensor", tensor.name);
}

/** Of a head whose halves are interleaved: the row that a row comes from. */
uint64_t row_before(uint64_t row, uint64_t half) {
    const uint64_t inside = row % (2 * half);
    return row - inside + inside % 2 * half + inside / 2;
}

constexpr size_t kMxfp4Codes = 16;  // bytes of a block without its scale
const DTypeInfo& kMxfp4 = dtype_info(DType::MXFP4);

/** Rows of a part, from its first one on. Of MXFP4: their codes. */
Grid grid_of(const GatheredTensor& own, const StoredRows& part, uint64_t rows, uint64_t columns) {
    const uint64_t step = own.row_step ? own.row_step : columns;
    if (!own.scales.empty()) return {part.offset, rows, 1, static_cast<size_t>(columns / kMxfp4.block * kMxfp4Codes), step / kMxfp4.block * kMxfp4Codes, 0};
    const size_t each = row_bytes(own.stored, 1);
    if (own.column_step == 1) return {part.offset, rows, 1, static_cast<size_t>(columns) * each, step * each, 0};
    return {part.offset, rows, columns, each, step * each, own.column_step * each};
}

Grid scales_of(const GatheredTensor& own, const StoredRows& scales, uint64_t rows, uint64_t columns) {
    return {scales.offset, rows, 1, static_cast<size_t>(columns / kMxfp4.block), (own.row_step ? own.row_step : columns) / kMxfp4.block, 0};
}

/** Blocks of ggml: the scale, then codes i and i + 16 in byte i, where the files have 2i and 2i + 1. Sources: quant/blocks.h; transformers, integrations/mxfp4.py. */
void join_mxfp4(const uint8_t* codes, const uint8_t* scales, size_t blocks, uint8_t* to) {
    for (size_t b = 0; b < blocks; b++, codes += kMxfp4Codes, to += kMxfp4.bytes) {
        to[0] = scales[b];
        for (size_t i = 0; i < kMxfp4Codes; i++) {
            const size_t shift = i % 2 * 4;
            to[1 + i] = static_cast<uint8_t>(((codes[i / 2] >> shift) & 15) | (((codes[8 + i / 2] >> shift) & 15) << 4));
        }
    }
}

}  // namespace

uint64_t rows_of(const GgufTensor& tensor) {
    uint64_t rows = 1;
    for (size_t i = 1; i < tensor.shape.size(); i++) rows *= tensor.shape[i];
    return rows;
}

Status RowConverter::convert(const uint8_t* from, size_t rows, uint8_t* to, Buffer& scratch, const std::string& path, const std::string& tensor, uint64_t first_row) const {
    TMOE_RETURN_IF_ERROR(scratch.reserve(columns_ * sizeof(float)));
    for (size_t row = 0; row < rows; row++) {
        decode_row(from_, from + row * from_bytes(), scratch.as<float>(), columns_);
        if (encode_row(to_, scratch.as<float>(), to + row * to_bytes(), columns_)) continue;
        const uint64_t at = first_row + row;
        return Status(StatusCode::MODEL_FILE_INVALID,
                      "tensor " + tensor + format(", row %llu: a value is not finite, or too large for %s", static_cast<unsigned long long>(at), dtype_info(to_).name))
            .with("path", path)
            .with("tensor", tensor)
            .with("row", static_cast<double>(at));
    }
    return {};
}

GatheredFiles::~GatheredFiles() {
    for (const int descriptor : descriptors_) close_model_file(descriptor);
}

Status GatheredFiles::open() {
    for (size_t i = 0; i < request_.files.size(); i++) {
        const std::string& path = request_.files[i];
        uint64_t bytes = 0;
        descriptors_.push_back(-1);
        TMOE_RETURN_IF_ERROR(open_model_file(path, "a safetensors file", descriptors_.back(), bytes));
        if (bytes == request_.file_bytes[i]) continue;
        return Status(StatusCode::FILE_READ_FAILED, path + format(" has %llu bytes, and had %llu when its header was read", static_cast<unsigned long long>(bytes),
                                                                  static_cast<unsigned long long>(request_.file_bytes[i])))
            .with("path", path)
            .with("offset", static_cast<double>(std::min(bytes, request_.file_bytes[i])));
    }
    return {};
}

Status GatheredFiles::check(const std::vector<GgufTensor>& tensors) const {
    if (tensors.size() != request_.tensors.size()) {
        return Status(StatusCode::VALIDATION_ERROR, format("the header has %zu tensors, %zu are given", tensors.size(), request_.tensors.size())).with("argument", "tensors");
    }
    for (size_t i = 0; i < tensors.size(); i++) {
        const GgufTensor& tensor = tensors[i];
        const GatheredTensor& own = request_.tensors[i];
        const uint64_t rows = rows_of(tensor), parts = own.parts.size(), columns = tensor.shape[0];
        const bool floats = !is_quantised(own.stored);
        if (!floats && (own.stored != DType::MXFP4 || own.scales.size() != parts || columns % kMxfp4.block != 0)) return wrong(tensor, "only floats, and MXFP4 with scales, can be gathered");
        if (floats && !own.scales.empty()) return wrong(tensor, "floats have no scales");
        const auto type = static_cast<DType>(tensor.type_id);
        if (!dtype_info(tensor.type_id) || (type != own.stored && !can_encode(type))) return wrong(tensor, "its type cannot be written");
        if (parts == 0 || rows % parts != 0) return wrong(tensor, format("%llu parts have no equal shares of its rows", static_cast<unsigned long long>(parts)));
        if (own.half_head != 0 && (parts != 1 || own.row_step != 0 || rows % (2 * uint64_t{own.half_head}) != 0)) return wrong(tensor, "its rows are not whole heads of one part");
        if (own.column_step == 0 || (own.column_step != 1 && (!floats || own.row_step == 0)) || (!floats && own.row_step % kMxfp4.block != 0)) {
            return wrong(tensor, "its rows have no such steps");
        }
        if (own.row_step > kMostStep || own.column_step > kMostStep) return wrong(tensor, "its steps are larger than any file");
        const auto inside = [&](const StoredRows& place, const Grid& grid) {
            uint64_t bytes = 0;
            if (place.file >= request_.files.size() || !grid_bytes(grid, bytes)) return false;
            return bytes <= request_.file_bytes[place.file] && place.offset <= request_.file_bytes[place.file] - bytes;
        };
        for (size_t part = 0; part < parts; part++) {
            bool sound = inside(own.parts[part], grid_of(own, own.parts[part], rows / parts, columns));
            if (!floats) sound = sound && inside(own.scales[part], scales_of(own, own.scales[part], rows / parts, columns));
            if (!sound) return wrong(tensor, "a part of it does not lie in its file");
        }
    }
    return {};
}

void GatheredFiles::read_header(uint64_t offset, void* to, size_t bytes) const {
    memset(to, 0, bytes);
    if (offset >= request_.header.size()) return;
    memcpy(to, request_.header.data() + offset, std::min<uint64_t>(bytes, request_.header.size() - offset));
}

StoredRows GatheredFiles::rows(size_t index, const GgufTensor& tensor, uint64_t row) const {
    const GatheredTensor& own = request_.tensors[index];
    const uint64_t each = rows_of(tensor) / own.parts.size();
    const StoredRows& part = own.parts[static_cast<size_t>(row / each)];
    return {part.file, part.offset + row % each * row_bytes(own.stored, tensor.shape[0])};
}

/** Rows of a part that is not plain. */
Status GatheredFiles::read_apart(const GatheredTensor& own, size_t columns, size_t part, uint64_t row, size_t rows, uint8_t* to) const {
    Buffer scratch;
    const auto read = [&](const StoredRows& place, Grid grid, uint8_t* out) {
        grid.offset += row * grid.row_step;
        return read_grid(descriptors_[place.file], request_.files[place.file], grid, out, scratch);
    };
    const Grid grid = grid_of(own, own.parts[part], rows, columns);
    if (own.scales.empty()) return read(own.parts[part], grid, to);
    const Grid scales = scales_of(own, own.scales[part], rows, columns);
    Buffer apart;
    TMOE_RETURN_IF_ERROR(apart.allocate(rows * (grid.element + scales.element)));
    TMOE_RETURN_IF_ERROR(read(own.parts[part], grid, apart.data()));
    TMOE_RETURN_IF_ERROR(read(own.scales[part], scales, apart.data() + rows * grid.element));
    join_mxfp4(apart.data(), apart.data() + rows * grid.element, rows * scales.element, to);
    return {};
}

/** Rows that follow one another in their part, as they are stored. */
Status GatheredFiles::read_stored(size_t index, const GgufTensor& tensor, uint64_t row, size_t rows, uint8_t* to) const {
    const GatheredTensor& own = request_.tensors[index];
    if (!own.plain()) {
        const uint64_t each = rows_of(tensor) / own.parts.size();
        return read_apart(own, static_cast<size_t>(tensor.shape[0]), static_cast<size_t>(row / each), row % each, rows, to);
    }
    const size_t bytes = row_bytes(own.stored, tensor.shape[0]);
    const size_t at_once = own.half_head == 0 ? rows : 1;  // heads are put together row by row
    for (size_t done = 0; done < rows; done += at_once) {
        const StoredRows place = this->rows(index, tensor, own.half_head == 0 ? row : row_before(row + done, own.half_head));
        TMOE_RETURN_IF_ERROR(read_model_file(descriptors_[place.file], request_.files[place.file], place.offset, to + done * bytes, at_once * bytes));
    }
    return {};
}

/** Bytes that are wanted as they are stored. */
Status GatheredFiles::read_same(const GatheredTensor& own, uint64_t part_bytes, uint64_t offset, uint8_t* to, size_t bytes) const {
    while (bytes > 0) {
        const StoredRows& part = own.parts[static_cast<size_t>(offset / part_bytes)];
        const uint64_t inside = offset % part_bytes;
        const auto count = static_cast<size_t>(std::min<uint64_t>(bytes, part_bytes - inside));
        TMOE_RETURN_IF_ERROR(read_model_file(descriptors_[part.file], request_.files[part.file], part.offset + inside, to, count));
        to += count;
        offset += count;
        bytes -= count;
    }
    return {};
}

Status GatheredFiles::read(size_t index, const GgufTensor& tensor, uint64_t offset, uint8_t* to, size_t bytes) const {
    const GatheredTensor& own = request_.tensors[index];
    const RowConverter converter(own.stored, static_cast<DType>(tensor.type_id), tensor.shape[0]);
    const uint64_t part_rows = rows_of(tensor) / own.parts.size();
    if (converter.same() && own.plain() && own.half_head == 0) return read_same(own, part_rows * converter.to_bytes(), offset, to, bytes);
    if (bytes == 0) return {};

    // Whole rows, of which the first and the last may be wanted in part.
    const size_t each = converter.to_bytes(), from_each = converter.from_bytes();
    const uint64_t first = offset / each, last = (offset + bytes - 1) / each + 1;
    const auto at_once = static_cast<size_t>(std::min<uint64_t>(last - first, std::max<size_t>(1, kReadBytes / from_each)));
    Buffer stored, row, floats;
    for (uint64_t at = first; at < last;) {
        const auto count = static_cast<size_t>(std::min({uint64_t{at_once}, last - at, part_rows - at % part_rows}));
        const bool wanted = converter.same() && at * each >= offset && (at + count) * each <= offset + bytes;
        if (!wanted) TMOE_RETURN_IF_ERROR(stored.reserve(at_once * from_each));
        TMOE_RETURN_IF_ERROR(read_stored(index, tensor, at, count, wanted ? to + (at * each - offset) : stored.data()));
        if (wanted) {
            at += count;
            continue;
        }
        for (size_t i = 0; i < count; i++, at++) {
            const uint64_t begin = std::max(offset, at * each), end = std::min(offset + bytes, (at + 1) * each);
            const uint8_t* made = stored.data() + i * from_each;
            if (!converter.same()) {
                const bool whole = end - begin == each;
                if (!whole) TMOE_RETURN_IF_ERROR(row.reserve(each));
                uint8_t* out = whole ? to + (begin - offset) : row.data();
                TMOE_RETURN_IF_ERROR(converter.convert(made, 1, out, floats, request_.path, tensor.name, at));
                if (whole) continue;
                made = out;
            }
            memcpy(to + (begin - offset), made + (begin - at * each), static_cast<size_t>(end - begin));
        }
    }
    return {};
}

}  // namespace tmoe
