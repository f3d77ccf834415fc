#include "core/tensor_loader.h"

#include <algorithm>
#include <cstring>

#include "cpu/route_score.h"
#include "quant/blocks.h"
#include "quant/repack.h"

namespace tmoe {

namespace {

constexpr size_t kReadBytes = size_t{1} << 20;   // what one thread reads at a time: small enough to stop within a millisecond

std::string shape_text(const std::vector<uint64_t>& shape) {
    std::string text;
    for (uint64_t n : shape) text += (text.empty() ? "" : " × ") + std::to_string(n);
    return text;
}

}  // namespace

Status load_cancelled() { return Status(StatusCode::CANCELLED, "loading was cancelled"); }

Status describe_tensor(const GgufFile& file, const PlanTensor& wanted, Weight& out) {
    const GgufTensor* found = file.find(wanted.file_name());
    if (!found) {
        return Status(StatusCode::TENSOR_MISSING, format("the file has no tensor '%s'", wanted.file_name().c_str())).with("tensor", wanted.file_name());
    }
    const DTypeInfo* info = dtype_info(found->type_id);
    if (!info) {
        const std::string type = gguf_type_name(found->type_id), supported = supported_type_names();
        return Status(StatusCode::TENSOR_TYPE_UNSUPPORTED, format("tensor '%s' has the type %s; supported: %s", found->name.c_str(), type.c_str(), supported.c_str()))
            .with("tensor", found->name)
            .with("type", type)
            .with("supported", supported);
    }
    std::vector<uint64_t> actual = found->shape;
    const std::vector<uint64_t> shape = wanted.file_shape();
    while (actual.size() > shape.size() && actual.back() == 1) actual.pop_back();
    while (actual.size() < shape.size() && shape[actual.size()] == 1) actual.push_back(1);  // a matrix of one row may be stored as a vector
    if (actual != shape) {
        const std::string has = shape_text(found->shape), needs = shape_text(shape);
        return Status(StatusCode::TENSOR_SHAPE_MISMATCH, format("tensor '%s' is %s, the model needs %s", found->name.c_str(), has.c_str(), needs.c_str()))
            .with("tensor", found->name)
            .with("expected", needs)
            .with("actual", has);
    }
    out.role = wanted.role;
    out.type = wanted.cut.transposed ? DType::F32 : info->type;
    out.cut = wanted.cut;
    out.columns = wanted.shape[0];
    out.rows = wanted.shape.size() > 1 ? wanted.shape[1] : 1;
    out.experts = wanted.shape.size() > 2 ? wanted.shape[2] : 1;
    return {};
}

uint64_t loaded_bytes(const Weight& w) {
    switch (w.role) {
        case TensorRole::Vector: return uint64_t{w.columns} * w.rows * sizeof(float);
        case TensorRole::Router:
        case TensorRole::RouterBias: return uint64_t{w.columns} * w.rows * sizeof(int32_t);
        case TensorRole::SelectionBias: return w.columns * sizeof(int64_t);
        case TensorRole::Embedding: return uint64_t{w.rows} * row_bytes(w.type, w.columns);
        default: return w.experts * uint64_t{packed_bytes(w.type, w.rows, w.columns)};
    }
}

namespace {

/** Kept as numbers, not as rows of a weight type. */
bool loaded_whole(TensorRole role) {
    return role == TensorRole::Vector || role == TensorRole::Router || role == TensorRole::RouterBias || role == TensorRole::SelectionBias;
}

}  // namespace

uint64_t piece_bytes(const Weight& w, const TensorPiece& piece) {
    if (loaded_whole(w.role)) return loaded_bytes(w);
    switch (w.role) {
        case TensorRole::Embedding: return uint64_t{piece.rows} * row_bytes(w.type, w.columns);
        default: return packed_bytes(w.type, piece.rows, w.columns);
    }
}

/** Runs fn(item, worker) → Status on all threads and returns the first failure in item order. */
template <class Fn> Status TensorLoader::parallel(size_t count, Fn fn) {
    std::atomic<size_t> first_failed{count};
    std::vector<Status> failures(backend_.pool.threads());
    std::vector<size_t> failed_at(backend_.pool.threads(), count);
    const bool done = backend_.pool.for_each(count, cancel_, [&](size_t item, size_t worker) {
        if (first_failed.load(std::memory_order_relaxed) < item) return;
        Status status = fn(item, worker);
        if (status.ok() || item >= failed_at[worker]) return;
        failures[worker] = std::move(status);
        failed_at[worker] = item;
        size_t seen = first_failed;
        while (item < seen && !first_failed.compare_exchange_weak(seen, item)) {
        }
    });
    if (!done) return load_cancelled();
    for (size_t worker = 0; worker < failures.size(); worker++) {
        if (failed_at[worker] == first_failed && first_failed < count) return failures[worker];
    }
    return {};
}

Status TensorLoader::load(const GgufTensor& tensor, Weight& w) {
    switch (w.role) {
        case TensorRole::Embedding:
            TMOE_RETURN_IF_ERROR(w.data.allocate(loaded_bytes(w)));
            return load_bytes(tensor, 0, w.data.size(), w.data.data());
        case TensorRole::Vector:
        case TensorRole::Router:
        case TensorRole::RouterBias:
        case TensorRole::SelectionBias: return load_floats(tensor, w);
        default: return load_packed(tensor, w);
    }
}

Status TensorLoader::load_piece(const GgufTensor& tensor, Weight& w, const TensorPiece& piece, uint8_t* to) {
    if (loaded_whole(w.role)) {
        TMOE_RETURN_IF_ERROR(load(tensor, w));
        memcpy(to, w.data.data(), loaded_bytes(w));
        return {};
    }
    const size_t row = row_bytes(w.type, w.columns);
    if (w.role == TensorRole::Embedding) return load_bytes(tensor, piece.first_row * row, piece.rows * row, to);
    const size_t first = piece.first_row / kLanes, last = (piece.first_row + piece.rows + kLanes - 1) / kLanes;
    const size_t step = groups_at_a_time(w), bytes = packed_group_bytes(w.type, w.columns);
    return parallel((last - first + step - 1) / step, [&](size_t item, size_t worker) {
        const size_t begin = first + item * step;
        return pack_groups(tensor, w, piece.expert, begin, std::min(last, begin + step), worker, to + (begin - first) * bytes);
    });
}

size_t TensorLoader::groups_at_a_time(const Weight& w) const { return std::max<size_t>(1, kReadBytes / (kLanes * row_bytes(w.type, w.columns))); }

/** Rows of a head's matrix that are columns of the file's, as floats. */
Status TensorLoader::read_transposed(const GgufTensor& tensor, const Weight& w, size_t head, size_t first_row, size_t rows, float* to) {
    const DType type = dtype_info(tensor.type_id)->type;
    const size_t width = static_cast<size_t>(tensor.shape[0]), row = row_bytes(type, width);
    Buffer raw, floats;
    TMOE_RETURN_IF_ERROR(raw.allocate(row));
    TMOE_RETURN_IF_ERROR(floats.allocate(width * sizeof(float)));
    for (size_t c = 0; c < w.columns; c++) {
        TMOE_RETURN_IF_ERROR(file_.read(tensor, (head * w.cut.height + w.cut.first + c) * row, raw.data(), row));
        decode_row(type, raw.data(), floats.as<float>(), width);
        for (size_t r = 0; r < rows; r++) to[r * w.columns + c] = floats.as<float>()[first_row + r];
    }
    return {};
}

/** Groups [first, last) of an expert's matrix. */
Status TensorLoader::pack_groups(const GgufTensor& tensor, const Weight& w, size_t expert, size_t first, size_t last, size_t worker, uint8_t* to) {
    const size_t row = row_bytes(w.type, w.columns), first_row = first * kLanes, rows = std::min(w.rows, last * kLanes) - first_row;
    Buffer& raw = scratch_[worker];
    TMOE_RETURN_IF_ERROR(raw.reserve(rows * row));
    if (w.cut.transposed) {
        TMOE_RETURN_IF_ERROR(read_transposed(tensor, w, expert, first_row, rows, raw.as<float>()));
    } else {
        const size_t begin = w.cut.height ? expert * w.cut.height + w.cut.first : expert * w.rows;
        TMOE_RETURN_IF_ERROR(file_.read(tensor, (begin + first_row) * row, raw.data(), rows * row));
    }
    pack_rows(w.type, raw.data(), rows, w.columns, to);
    return {};
}

Status TensorLoader::load_packed(const GgufTensor& tensor, Weight& w) {
    const size_t groups = (w.rows + kLanes - 1) / kLanes, step = groups_at_a_time(w), steps = (groups + step - 1) / step;
    w.expert_bytes = packed_bytes(w.type, w.rows, w.columns);
    TMOE_RETURN_IF_ERROR(w.data.allocate(w.expert_bytes * w.experts));
    return parallel(w.experts * steps, [&](size_t item, size_t worker) {
        const size_t expert = item / steps, first = item % steps * step;
        return pack_groups(tensor, w, expert, first, std::min(groups, first + step), worker,
                           w.data.data() + expert * w.expert_bytes + first * packed_group_bytes(w.type, w.columns));
    });
}

/** Bytes as the file has them. */
Status TensorLoader::load_bytes(const GgufTensor& tensor, uint64_t from, size_t bytes, uint8_t* to) {
    return parallel((bytes + kReadBytes - 1) / kReadBytes, [&](size_t item, size_t) {
        const size_t at = item * kReadBytes;
        return file_.read(tensor, from + at, to + at, std::min(kReadBytes, bytes - at));
    });
}

Status TensorLoader::load_floats(const GgufTensor& tensor, Weight& w) {
    const size_t row = row_bytes(w.type, w.columns), count = w.columns * w.rows;
    Buffer raw, floats;
    TMOE_RETURN_IF_ERROR(raw.allocate(row * w.rows));
    TMOE_RETURN_IF_ERROR(floats.allocate(count * sizeof(float)));
    TMOE_RETURN_IF_ERROR(file_.read(tensor, 0, raw.data(), raw.size()));
    for (size_t r = 0; r < w.rows; r++) decode_row(w.type, raw.data() + r * row, floats.as<float>() + r * w.columns, w.columns);
    for (size_t i = 0; i < count; i++) {
        if (float_bits(floats.as<float>()[i]) << 1 >= 0xff000000u) {
            return Status(StatusCode::RUNTIME_NAN_DETECTED, format("tensor '%s' holds a value that is not finite at %zu", tensor.name.c_str(), i)).with("tensor", tensor.name);
        }
    }
    if (w.role == TensorRole::Vector) {
        w.data = std::move(floats);
        return {};
    }
    if (w.role == TensorRole::SelectionBias) {
        TMOE_RETURN_IF_ERROR(w.data.allocate(count * sizeof(int64_t)));
        for (size_t i = 0; i < count; i++) w.data.as<int64_t>()[i] = selection_bias_of(floats.as<float>()[i]);
        return {};
    }
    TMOE_RETURN_IF_ERROR(w.data.allocate(count * sizeof(int32_t)));
    w.exponent = backend_.kernels->quantise_state(floats.as<float>(), count, w.data.as<int32_t>());
    return {};
}

}  // namespace tmoe
