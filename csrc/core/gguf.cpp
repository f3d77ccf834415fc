#include "core/gguf.h"

#include "core/gathered_files.h"
#include "core/gguf_header.h"
#include "core/model_file.h"

namespace tmoe {

GgufFile::GgufFile() = default;
GgufFile::~GgufFile() { close_model_file(descriptor_); }

Status GgufFile::open(const std::string& path, std::shared_ptr<GgufFile>& out) {
    std::shared_ptr<GgufFile> file(new GgufFile());
    file->path_ = path;
    TMOE_RETURN_IF_ERROR(open_model_file(path, "a GGUF file", file->descriptor_, file->file_bytes_));
    TMOE_RETURN_IF_ERROR(GgufHeader(*file).parse());
    out = std::move(file);
    return {};
}

Status GgufFile::gather(GatherRequest request, std::shared_ptr<GgufFile>& out) {
    std::shared_ptr<GgufFile> file(new GgufFile());
    const uint64_t header = request.header.size();
    file->path_ = request.path;
    file->file_bytes_ = header + request.data_bytes;
    file->gathered_ = std::make_unique<GatheredFiles>(std::move(request));
    TMOE_RETURN_IF_ERROR(file->gathered_->open());
    TMOE_RETURN_IF_ERROR(GgufHeader(*file).parse());
    for (const GgufTensor& tensor : file->tensors_) {
        if (tensor.offset >= header) continue;
        return Status(StatusCode::VALIDATION_ERROR, "header: it is longer than what its entries need").with("argument", "header");
    }
    TMOE_RETURN_IF_ERROR(file->gathered_->check(file->tensors_));
    out = std::move(file);
    return {};
}

Status GgufFile::read_at(uint64_t offset, void* to, size_t bytes) const {
    if (!gathered_) return read_model_file(descriptor_, path_, offset, to, bytes);
    gathered_->read_header(offset, to, bytes);
    return {};
}

Status GgufFile::read(const GgufTensor& t, uint64_t offset, void* to, size_t bytes) const {
    if (offset > t.bytes || bytes > t.bytes - offset) {
        return Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, "a read past the end of tensor " + t.name).with("tensor", t.name);
    }
    if (gathered_) return gathered_->read(index(t), t, offset, static_cast<uint8_t*>(to), bytes);
    return read_at(t.offset + offset, to, bytes);
}

size_t GgufFile::files() const { return gathered_ ? gathered_->request().files.size() : 1; }
const std::string& GgufFile::file_path(size_t file) const { return gathered_ ? gathered_->request().files[file] : path_; }
int GgufFile::descriptor(size_t file) const { return gathered_ ? gathered_->descriptor(file) : descriptor_; }

uint32_t GgufFile::stored_type(const GgufTensor& t) const {
    return gathered_ ? static_cast<uint32_t>(gathered_->request().tensors[index(t)].stored) : t.type_id;
}

bool GgufFile::apart(const GgufTensor& t) const { return gathered_ && !gathered_->request().tensors[index(t)].plain(); }

bool GgufFile::stored_together(const GgufTensor& t, uint64_t rows) const {
    if (!gathered_) return true;
    const GatheredTensor& own = gathered_->request().tensors[index(t)];
    return !apart(t) && own.half_head == 0 && rows_of(t) / own.parts.size() % rows == 0;
}

StoredRows GgufFile::stored_rows(const GgufTensor& t, uint64_t row) const {
    if (gathered_) return gathered_->rows(index(t), t, row);
    return {0, t.offset + row * (t.bytes / rows_of(t))};
}

const GgufTensor* GgufFile::find(const std::string& name) const {
    const auto found = tensor_index_.find(name);
    return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

const GgufEntry* GgufFile::entry(const std::string& key) const {
    const auto found = entry_index_.find(key);
    return found == entry_index_.end() ? nullptr : &metadata_[found->second];
}

}  // namespace tmoe
