#include "core/store/versioned_source.h"

#include "core/store/direct_file.h"

namespace tmoe {

void VersionedSource::replace(uint32_t layer, uint32_t expert, std::shared_ptr<DirectFile> file, uint64_t offset, uint32_t crc32c) {
    std::lock_guard<std::mutex> lock(mutex_);
    versions_[key(layer, expert)] = {std::move(file), offset, crc32c};
}

VersionedSource::Version VersionedSource::find(uint32_t layer, uint32_t expert) const {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto at = versions_.find(key(layer, expert));
    return at == versions_.end() ? Version() : at->second;
}

size_t VersionedSource::pieces(uint32_t layer, uint32_t expert) const {
    return find(layer, expert).file ? blob_pieces(layouts_[layer]) : inner_->pieces(layer, expert);
}

uint64_t VersionedSource::file_bytes(uint32_t layer, uint32_t expert) const {
    return find(layer, expert).file ? layouts_[layer].bytes : inner_->file_bytes(layer, expert);
}

Status VersionedSource::read(uint32_t layer, uint32_t expert, size_t piece, uint8_t* blob, ReadScratch& scratch, const std::atomic<bool>* cancel, uint32_t& sum) const {
    const Version version = find(layer, expert);
    if (!version.file) return inner_->read(layer, expert, piece, blob, scratch, cancel, sum);
    if (cancel && cancel->load(std::memory_order_relaxed)) return Status(StatusCode::CANCELLED, "the read was cancelled");
    return read_blob_piece(*version.file, version.offset, layouts_[layer], piece, blob, sum);
}

Status VersionedSource::check(uint32_t layer, uint32_t expert, const std::vector<uint32_t>& sums) const {
    const Version version = find(layer, expert);
    if (!version.file) return inner_->check(layer, expert, sums);
    return check_blob(layer, expert, layouts_[layer], sums, version.crc32c, version.file->path(), version.offset);
}

}  // namespace tmoe
