#include "core/gguf_quantize.h"

#include <algorithm>
#include <thread>

#include "core/file_writer.h"
#include "core/gathered_files.h"
#include "core/gguf_writer.h"
#include "core/memory.h"
#include "core/threads.h"
#include "quant/blocks.h"

namespace tmoe {

namespace {

constexpr size_t kChunk = size_t{4} << 20;         // bytes of input read at a time, so that cancelling takes a few milliseconds
constexpr uint32_t kQuantizationVersion = 2;       // of the block layouts, as ggml counts them
constexpr uint32_t kFileTypeQ8 = 7, kFileTypeQ4 = 2;  // general.file_type of the specification

struct Output {
    const GgufTensor* tensor;
    DType type;
    uint64_t bytes;
    uint64_t offset;  // from the start of the data
};

Status check_type(const GgufTensor& tensor) {
    if (dtype_info(tensor.type_id)) return {};
    return Status(StatusCode::TENSOR_TYPE_UNSUPPORTED,
                  "tensor " + tensor.name + " has the type " + gguf_type_name(tensor.type_id) + ", which cannot be read here")
        .with("tensor", tensor.name)
        .with("type", gguf_type_name(tensor.type_id))
        .with("supported", supported_type_names());
}

Status plan_outputs(const GgufFile& file, DType target, std::vector<Output>& outputs) {
    const bool tied = file.find("output.weight") == nullptr;
    uint64_t offset = 0;
    for (const GgufTensor& tensor : file.tensors()) {
        TMOE_RETURN_IF_ERROR(check_type(tensor));
        const DType type = quantised_type(tensor, target, tied);
        // Every tensor lies in the file, and no type here takes over eight times the bytes of another: no overflow.
        const uint64_t bytes = rows_of(tensor) * row_bytes(type, static_cast<size_t>(tensor.shape[0]));
        outputs.push_back({&tensor, type, bytes, offset});
        const uint64_t alignment = file.alignment();
        offset += (bytes + alignment - 1) / alignment * alignment;
    }
    return {};
}

Status write_header(const GgufFile& file, DType target, const std::vector<Output>& outputs, GgufHeaderWriter& header) {
    const std::string type_key = "general.file_type", version_key = "general.quantization_version";
    const uint32_t file_type = target == DType::Q4_0 ? kFileTypeQ4 : kFileTypeQ8;
    const bool add_type = !file.entry(type_key), add_version = !file.entry(version_key);
    header.begin(file.version(), outputs.size(), file.metadata().size() + (add_type ? 1 : 0) + (add_version ? 1 : 0));
    for (const GgufEntry& entry : file.metadata()) {
        if (entry.key == type_key || entry.key == version_key) {
            header.entry(entry.key, entry.key == type_key ? file_type : kQuantizationVersion);
        } else {
            TMOE_RETURN_IF_ERROR(header.copy(file, entry));
        }
    }
    if (add_type) header.entry(type_key, file_type);
    if (add_version) header.entry(version_key, kQuantizationVersion);
    for (const Output& output : outputs) {
        header.tensor(output.tensor->name, output.tensor->shape, static_cast<uint32_t>(output.type), output.offset);
    }
    return {};
}

// Converts a tensor a few rows at a time; each thread has its own row of floats.
class Converter {
  public:
    Converter(const GgufFile& file, FileWriter& writer, ThreadPool& pool, const std::atomic<bool>* cancel)
        : file_(file), writer_(writer), pool_(pool), cancel_(cancel) {}

    Status write(const Output& output) {
        const GgufTensor& tensor = *output.tensor;
        const auto from_type = static_cast<DType>(tensor.type_id);
        const size_t columns = static_cast<size_t>(tensor.shape[0]);
        const size_t from_row = row_bytes(from_type, columns), to_row = row_bytes(output.type, columns);
        const uint64_t rows = rows_of(tensor);
        const size_t at_once = static_cast<size_t>(std::min<uint64_t>(rows, std::max<size_t>(1, kChunk / from_row)));
        const bool same = from_type == output.type;
        TMOE_RETURN_IF_ERROR(from_.reserve(at_once * from_row));
        if (!same) {
            TMOE_RETURN_IF_ERROR(to_.reserve(at_once * to_row));
            TMOE_RETURN_IF_ERROR(floats_.reserve(pool_.threads() * columns * sizeof(float)));
        }
        for (uint64_t row = 0; row < rows; row += at_once) {
            const size_t count = static_cast<size_t>(std::min<uint64_t>(at_once, rows - row));
            if (cancel_ && cancel_->load()) return Status(StatusCode::CANCELLED, "quantising was cancelled");
            TMOE_RETURN_IF_ERROR(file_.read(tensor, row * from_row, from_.data(), count * from_row));
            if (same) {
                TMOE_RETURN_IF_ERROR(writer_.write(from_.data(), count * from_row));
                continue;
            }
            std::atomic<uint64_t> bad{UINT64_MAX};
            const bool whole = pool_.for_each(count, cancel_, [&](size_t i, size_t worker) {
                float* values = floats_.as<float>() + worker * columns;
                decode_row(from_type, from_.data() + i * from_row, values, columns);
                if (encode_row(output.type, values, to_.data() + i * to_row, columns)) return;
                uint64_t first = bad.load();
                while (row + i < first && !bad.compare_exchange_weak(first, row + i)) {
                }
            });
            if (!whole) return Status(StatusCode::CANCELLED, "quantising was cancelled");
            if (bad.load() != UINT64_MAX) {
                return Status(StatusCode::MODEL_FILE_INVALID,
                              "tensor " + tensor.name + format(", row %llu: a value is not finite, or too large for the type",
                                                               static_cast<unsigned long long>(bad.load())))
                    .with("path", file_.path())
                    .with("tensor", tensor.name)
                    .with("row", static_cast<double>(bad.load()));
            }
            TMOE_RETURN_IF_ERROR(writer_.write(to_.data(), count * to_row));
        }
        return writer_.pad(file_.alignment());
    }

  private:
    const GgufFile& file_;
    FileWriter& writer_;
    ThreadPool& pool_;
    const std::atomic<bool>* cancel_;
    Buffer from_, to_, floats_;
};

}  // namespace

DType quantised_type(const GgufTensor& tensor, DType target, bool tied) {
    const size_t end = tensor.name.rfind(".bias");
    const bool bias = end != std::string::npos && end + 5 == tensor.name.size();
    if (bias || tensor.shape.size() == 1 || tensor.name.find("ffn_gate_inp") != std::string::npos || tensor.name.find("_router.") != std::string::npos) return DType::F32;
    if (tensor.shape[0] % dtype_info(target).block != 0) return static_cast<DType>(tensor.type_id);
    if (tensor.name == (tied ? "token_embd.weight" : "output.weight")) return DType::Q8_0;
    return target;
}

Status quantise_gguf(const std::string& from, const std::string& to, DType target,
                     const std::function<void(const LoadProgress&)>& progress, const std::atomic<bool>* cancel, uint64_t& bytes) {
    std::shared_ptr<GgufFile> file;
    TMOE_RETURN_IF_ERROR(GgufFile::open(from, file));
    std::vector<Output> outputs;
    TMOE_RETURN_IF_ERROR(plan_outputs(*file, target, outputs));
    GgufHeaderWriter header;
    TMOE_RETURN_IF_ERROR(write_header(*file, target, outputs, header));

    uint64_t total = 0, done = 0, written = header.bytes().size() + file->alignment();
    for (const Output& output : outputs) {
        total += output.tensor->bytes;
        written += output.bytes + file->alignment();
    }
    ThreadPool pool;
    TMOE_RETURN_IF_ERROR(pool.start(std::max(1u, std::thread::hardware_concurrency())));
    FileWriter writer;
    TMOE_RETURN_IF_ERROR(writer.open(to, written));
    TMOE_RETURN_IF_ERROR(writer.write(header.bytes().data(), header.bytes().size()));
    TMOE_RETURN_IF_ERROR(writer.pad(file->alignment()));
    Converter converter(*file, writer, pool, cancel);
    for (size_t i = 0; i < outputs.size(); i++) {
        TMOE_RETURN_IF_ERROR(converter.write(outputs[i]));
        done += outputs[i].tensor->bytes;
        if (progress) progress({outputs[i].tensor->name, i, outputs.size(), done, total});
    }
    if (cancel && cancel->load()) return Status(StatusCode::CANCELLED, "quantising was cancelled");
    bytes = writer.position();
    return writer.commit();
}

}  // namespace tmoe
