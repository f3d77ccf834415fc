#include "core/checkpoint/write_experts.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include "core/file_errors.h"
#include "core/file_writer.h"
#include "core/store/crc32c.h"
#include "quant/repack.h"

namespace tmoe {

namespace {

constexpr size_t kRows = 16;                          // of a packed group
constexpr size_t kReadBytes = size_t{1} << 20;        // of a matrix at a time
constexpr size_t kBatchBytes = size_t{64} << 20;      // blobs in the making at once, where one is not larger

struct Matrix {
    const GgufTensor* tensor;
    DType type;
    size_t columns, rows, experts;
};

Status find_matrix(const GgufFile& file, const std::string& name, Matrix& out) {
    const GgufTensor* tensor = file.find(name);
    if (!tensor) return Status(StatusCode::TENSOR_MISSING, "the file has no tensor " + name).with("tensor", name);
    const DTypeInfo* info = dtype_info(tensor->type_id);
    if (!info) {
        return Status(StatusCode::TENSOR_TYPE_UNSUPPORTED, "tensor " + name + " has the type " + gguf_type_name(tensor->type_id))
            .with("tensor", name)
            .with("type", gguf_type_name(tensor->type_id))
            .with("supported", supported_type_names());
    }
    const auto size = [tensor](size_t i) { return i < tensor->shape.size() ? static_cast<size_t>(tensor->shape[i]) : size_t{1}; };
    out = {tensor, info->type, size(0), size(1), size(2)};
    if (size(3) == 1) return {};
    return Status(StatusCode::TENSOR_SHAPE_MISMATCH, "tensor " + name + " has four dimensions")
        .with("tensor", name)
        .with("expected", 3)
        .with("actual", 4);
}

class PackExperts : public BlobMaker {
  public:
    PackExperts(std::shared_ptr<GgufFile> file, std::vector<uint32_t> experts) : file_(std::move(file)), experts_(std::move(experts)) {}

    Status begin(const std::string& gate, const std::string& up, const std::string& down) {
        TMOE_RETURN_IF_ERROR(find_matrix(*file_, gate, gate_));
        TMOE_RETURN_IF_ERROR(find_matrix(*file_, up, up_));
        TMOE_RETURN_IF_ERROR(find_matrix(*file_, down, down_));
        const bool alike = gate_.columns == up_.columns && gate_.rows == up_.rows && gate_.columns == down_.rows &&
                           gate_.rows == down_.columns && gate_.experts == up_.experts && gate_.experts == down_.experts;
        if (!alike) {
            return Status(StatusCode::TENSOR_SHAPE_MISMATCH, "the shapes of " + gate + ", " + up + " and " + down + " do not belong together")
                .with("tensor", down)
                .with("expected", format("%zu × %zu × %zu", gate_.rows, gate_.columns, gate_.experts))
                .with("actual", format("%zu × %zu × %zu", down_.columns, down_.rows, down_.experts));
        }
        for (const uint32_t expert : experts_) {
            if (expert < gate_.experts) continue;
            return Status(StatusCode::VALIDATION_ERROR, format("experts: there is no expert %u among %zu", expert, gate_.experts))
                .with("argument", "experts")
                .with("actual", expert);
        }
        layout_ = expert_layout(gate_.type, up_.type, down_.type, gate_.columns, gate_.rows);
        return {};
    }

    size_t count() const override { return experts_.size(); }
    size_t blob_bytes() const override { return layout_.bytes; }

    Status fill(size_t index, uint8_t* blob, Buffer& scratch) const override {
        TMOE_RETURN_IF_ERROR(pack(gate_, layout_.gate, experts_[index], blob, scratch));
        TMOE_RETURN_IF_ERROR(pack(up_, layout_.up, experts_[index], blob, scratch));
        return pack(down_, layout_.down, experts_[index], blob, scratch);
    }

  private:
    Status pack(const Matrix& matrix, const ExpertPart& part, size_t expert, uint8_t* blob, Buffer& scratch) const {
        const size_t row = row_bytes(matrix.type, matrix.columns), group_bytes = packed_group_bytes(matrix.type, matrix.columns);
        const size_t at_once = std::max<size_t>(1, kReadBytes / (kRows * row)) * kRows;
        TMOE_RETURN_IF_ERROR(scratch.reserve(std::min(at_once, matrix.rows) * row));
        uint8_t* to = blob + part.offset;
        for (size_t first = 0; first < matrix.rows; first += at_once) {
            const size_t rows = std::min(at_once, matrix.rows - first);
            TMOE_RETURN_IF_ERROR(file_->read(*matrix.tensor, (uint64_t{expert} * matrix.rows + first) * row, scratch.data(), rows * row));
            pack_rows(matrix.type, scratch.data(), rows, matrix.columns, to);
            to += rows / kRows * group_bytes;
        }
        return {};
    }

    std::shared_ptr<GgufFile> file_;
    std::vector<uint32_t> experts_;
    Matrix gate_ = {}, up_ = {}, down_ = {};
    ExpertLayout layout_;
};

class CopyExperts : public BlobMaker {
  public:
    CopyExperts(std::vector<std::string> paths, size_t blob_bytes, std::vector<StoredBlob> blobs)
        : paths_(std::move(paths)), blob_bytes_(blob_bytes), blobs_(std::move(blobs)) {}
    ~CopyExperts() override {
        for (const int descriptor : descriptors_) ::close(descriptor);
        counters().open_files -= static_cast<int64_t>(descriptors_.size());
    }

    Status begin() {
        for (const std::string& path : paths_) {
            const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
            if (descriptor < 0) return read_failed(path, errno);
            descriptors_.push_back(descriptor);
            counters().open_files++;
        }
        return {};
    }

    size_t count() const override { return blobs_.size(); }
    size_t blob_bytes() const override { return blob_bytes_; }

    Status fill(size_t index, uint8_t* blob, Buffer&) const override {
        const StoredBlob& stored = blobs_[index];
        const std::string& path = paths_[stored.file];
        for (size_t done = 0; done < blob_bytes_;) {
            const ssize_t got = pread(descriptors_[stored.file], blob + done, blob_bytes_ - done, static_cast<off_t>(stored.offset + done));
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return read_failed(path, errno);
            if (got == 0) return corrupted(stored, "the file ends inside of it");
            done += static_cast<size_t>(got);
        }
        const uint32_t crc = crc32c(blob, blob_bytes_);
        return crc == stored.crc32c ? Status() : corrupted(stored, format("its CRC-32C is %08x and not %08x", crc, stored.crc32c));
    }

  private:
    Status corrupted(const StoredBlob& stored, const std::string& why) const {
        const std::string& path = paths_[stored.file];
        return Status(StatusCode::MODEL_CORRUPTED, path + format(": the blob at byte %llu is damaged: ", static_cast<unsigned long long>(stored.offset)) + why)
            .with("file", path)
            .with("offset", static_cast<double>(stored.offset));
    }

    std::vector<std::string> paths_;
    std::vector<int> descriptors_;
    size_t blob_bytes_;
    std::vector<StoredBlob> blobs_;
};

/** Blobs in the making; two of them take turns with the writer. */
struct Batch {
    Buffer memory;
    size_t first = 0, count = 0;
    std::vector<Status> failures;
};

}  // namespace

Status pack_experts(std::shared_ptr<GgufFile> file, const std::string& gate, const std::string& up, const std::string& down,
                    std::vector<uint32_t> experts, std::unique_ptr<BlobMaker>& out) {
    auto maker = std::make_unique<PackExperts>(std::move(file), std::move(experts));
    TMOE_RETURN_IF_ERROR(maker->begin(gate, up, down));
    out = std::move(maker);
    return {};
}

Status copy_experts(const std::vector<std::string>& files, size_t blob_bytes, std::vector<StoredBlob> blobs, std::unique_ptr<BlobMaker>& out) {
    auto maker = std::make_unique<CopyExperts>(files, blob_bytes, std::move(blobs));
    TMOE_RETURN_IF_ERROR(maker->begin());
    out = std::move(maker);
    return {};
}

Status write_experts(const BlobMaker& maker, const std::string& to, ThreadPool& pool, const std::function<void(uint64_t)>& progress,
                     const std::atomic<bool>* cancel, WrittenExperts& out) {
    const size_t bytes = maker.blob_bytes(), count = maker.count();
    const size_t at_once = std::min(count, std::max(pool.threads(), std::min<size_t>(kBatchBytes / bytes, 4 * pool.threads())));
    Sha256 hash;
    FileWriter writer;
    TMOE_RETURN_IF_ERROR(writer.open(to, uint64_t{count} * bytes));
    writer.hash_into(&hash);
    out.blobs.assign(count, {});
    Batch batches[2];
    std::vector<Buffer> scratch(pool.threads());
    for (Batch& batch : batches) TMOE_RETURN_IF_ERROR(batch.memory.allocate(at_once * bytes));

    Batch *ready = &batches[0], *next = &batches[1];
    for (size_t made = 0; made < count || ready->count > 0;) {
        next->first = made;
        next->count = std::min(at_once, count - made);
        next->failures.assign(next->count, {});
        Status written;
        // The file is one chain of bytes, so one item writes and hashes; the others make what comes after.
        const bool whole = pool.for_each(next->count + 1, cancel, [&](size_t item, size_t worker) {
            if (item == 0) {
                if (ready->count > 0) written = writer.write(ready->memory.data(), ready->count * bytes);
                return;
            }
            const size_t i = item - 1;
            uint8_t* blob = next->memory.data() + i * bytes;
            next->failures[i] = maker.fill(next->first + i, blob, scratch[worker]);
            if (next->failures[i].ok()) out.blobs[next->first + i] = {crc32c(blob, bytes), sha256(blob, bytes)};
        });
        if (!whole) return Status(StatusCode::CANCELLED, "converting was cancelled");
        TMOE_RETURN_IF_ERROR(written);
        for (const Status& failure : next->failures) TMOE_RETURN_IF_ERROR(failure);
        made += next->count;
        std::swap(ready, next);
        if (progress) progress(writer.position());
    }
    out.file.bytes = writer.position();
    out.file.sha256 = hash.finish();
    return writer.commit();
}

}  // namespace tmoe
