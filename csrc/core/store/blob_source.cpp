// Experts of a tiered checkpoint: blobs, read straight into their slots.
#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "core/store/direct_file.h"
#include "core/store/expert_source.h"

namespace tmoe {

size_t blob_pieces(const ExpertLayout& layout) { return std::max<size_t>(1, (layout.bytes + kReadBytes / 2) / kReadBytes); }

namespace {

struct Range {
    size_t begin, bytes;
};
Range piece_of(const ExpertLayout& layout, size_t piece) {
    const size_t blocks = layout.bytes / kBlobAlignment, pieces = blob_pieces(layout), step = (blocks + pieces - 1) / pieces * kBlobAlignment;
    const size_t begin = std::min(layout.bytes, piece * step);
    return {begin, std::min(step, layout.bytes - begin)};
}

}  // namespace

Status read_blob_piece(const DirectFile& file, uint64_t offset, const ExpertLayout& layout, size_t piece, uint8_t* blob, uint32_t& sum) {
    const Range range = piece_of(layout, piece);
    TMOE_RETURN_IF_ERROR(file.read(offset + range.begin, blob + range.begin, range.bytes, range.bytes));
    sum = crc32c(blob + range.begin, range.bytes);  // while other pieces are being read
    return {};
}

Status check_blob(uint32_t layer, uint32_t expert, const ExpertLayout& layout, const std::vector<uint32_t>& sums, uint32_t expected, const std::string& path,
                  uint64_t offset) {
    uint32_t actual = 0;
    for (size_t piece = 0; piece < sums.size(); piece++) actual = crc32c_join(actual, sums[piece], piece_of(layout, piece).bytes);
    if (actual == expected) return {};
    return Status(StatusCode::EXPERT_CORRUPTED,
                  path + format(": expert %u of layer %u, at byte %llu, has the checksum %08x and not %08x", expert, layer,
                                static_cast<unsigned long long>(offset), actual, expected))
        .with("layer", layer)
        .with("expert", expert)
        .with("file", path)
        .with("offset", static_cast<double>(offset))
        .with("expected", format("%08x", expected))
        .with("actual", format("%08x", actual));
}

namespace {

class BlobSource final : public ExpertSource {
  public:
    BlobSource(std::vector<std::shared_ptr<DirectFile>> files, std::vector<std::vector<BlobPlace>> places, std::vector<ExpertLayout> layouts)
        : files_(std::move(files)), places_(std::move(places)), layouts_(std::move(layouts)) {
        for (const std::vector<BlobPlace>& layer : places_) {
            for (const BlobPlace& place : layer) archives_ = archives_ || place.file == kInArchive;
        }
    }

    size_t pieces(uint32_t layer, uint32_t) const override { return blob_pieces(layouts_[layer]); }

    uint64_t file_bytes(uint32_t layer, uint32_t) const override { return layouts_[layer].bytes; }

    Status read(uint32_t layer, uint32_t expert, size_t piece, uint8_t* blob, ReadScratch&, const std::atomic<bool>* cancel, uint32_t& sum) const override {
        if (cancel && cancel->load(std::memory_order_relaxed)) return Status(StatusCode::CANCELLED, "the read was cancelled");
        const BlobPlace& place = places_[layer][expert];
        if (place.file != kInArchive) return read_blob_piece(*files_[place.file], place.offset, layouts_[layer], piece, blob, sum);
        Brought now = brought(layer, expert);
        Status opened;
        if (!now.path.empty() && !now.file) opened = DirectFile::open(now.path, now.file);
        if (now.file) return read_blob_piece(*now.file, now.offset, layouts_[layer], piece, blob, sum);
        if (!opened.ok() && opened.code() != StatusCode::MODEL_NOT_FOUND) return opened;  // it is there: bringing it again would not help
        forget(layer, expert, now.path);
        return in_archive(layer, expert);
    }

    Status check(uint32_t layer, uint32_t expert, const std::vector<uint32_t>& sums) const override {
        const BlobPlace& place = places_[layer][expert];
        const Brought now = place.file == kInArchive ? brought(layer, expert) : Brought{files_[place.file]->path(), files_[place.file], place.offset};
        Status status = check_blob(layer, expert, layouts_[layer], sums, place.crc32c, now.path, now.offset);
        if (status.ok() || now.file) return status;
        return std::move(status).with("archived", 1);  // another copy can be brought
    }

    bool archives() const override { return archives_; }

    bool local(uint32_t layer, uint32_t expert) const override {
        return places_[layer][expert].file != kInArchive || !brought(layer, expert).path.empty();
    }

    void bring(uint32_t layer, uint32_t expert, const std::string& path) override {
        std::lock_guard<std::mutex> lock(mutex_);
        brought_[key(layer, expert)] = {path, nullptr, 0};
    }

    void lose(uint32_t layer, uint32_t expert, const std::string& path) override { forget(layer, expert, path); }

    void adopt(uint32_t layer, uint32_t expert, std::shared_ptr<DirectFile> file, uint64_t offset) override {
        std::lock_guard<std::mutex> lock(mutex_);
        const std::string& path = file->path();
        brought_[key(layer, expert)] = {path, std::move(file), offset};
    }

  private:
    /** Where an archived expert's blob is now. */
    struct Brought {
        std::string path;                   ///< empty while it is in the archive only
        std::shared_ptr<DirectFile> file;   ///< null: opened for each read, because it may be removed
        uint64_t offset = 0;
    };

    static uint64_t key(uint32_t layer, uint32_t expert) { return uint64_t{layer} << 32 | expert; }

    Brought brought(uint32_t layer, uint32_t expert) const {
        std::lock_guard<std::mutex> lock(mutex_);
        const auto at = brought_.find(key(layer, expert));
        return at == brought_.end() ? Brought() : at->second;
    }

    /** Another file may have been brought meanwhile: that one stays. */
    void forget(uint32_t layer, uint32_t expert, const std::string& path) const {
        std::lock_guard<std::mutex> lock(mutex_);
        const auto at = brought_.find(key(layer, expert));
        if (at != brought_.end() && at->second.path == path) brought_.erase(at);
    }

    /** What was brought has gone (its folder has made room): it is to be brought again. */
    Status in_archive(uint32_t layer, uint32_t expert) const {
        return Status(StatusCode::EXPERT_UNAVAILABLE, format("expert %u of layer %u is in the archive", expert, layer))
            .with("layer", layer)
            .with("expert", expert)
            .with("archived", 1);
    }

    bool archives_ = false;
    mutable std::mutex mutex_;
    mutable std::unordered_map<uint64_t, Brought> brought_;
    std::vector<std::shared_ptr<DirectFile>> files_;
    std::vector<std::vector<BlobPlace>> places_;
    std::vector<ExpertLayout> layouts_;
};

Status invalid(const std::string& path, const char* what, const BlobPlace& place, size_t layer, size_t expert) {
    return Status(StatusCode::MODEL_CORRUPTED,
                  path + format(": %s (expert %zu of layer %zu, at byte %llu)", what, expert, layer, static_cast<unsigned long long>(place.offset)))
        .with("file", path)
        .with("layer", static_cast<double>(layer))
        .with("expert", static_cast<double>(expert))
        .with("offset", static_cast<double>(place.offset));
}

}  // namespace

Status open_blob_source(const std::vector<std::string>& files, std::vector<std::vector<BlobPlace>> places, std::vector<ExpertLayout> layouts,
                        std::shared_ptr<ExpertSource>& out) {
    if (places.size() != layouts.size()) {
        return Status(StatusCode::VALIDATION_ERROR, format("%zu layers of places, %zu layouts", places.size(), layouts.size()));
    }
    std::vector<std::shared_ptr<DirectFile>> opened(files.size());
    for (size_t i = 0; i < files.size(); i++) TMOE_RETURN_IF_ERROR(DirectFile::open(files[i], opened[i]));
    for (size_t layer = 0; layer < places.size(); layer++) {
        for (size_t expert = 0; expert < places[layer].size(); expert++) {
            const BlobPlace& place = places[layer][expert];
            if (place.file == kInArchive) continue;
            if (place.file >= opened.size()) {
                return Status(StatusCode::VALIDATION_ERROR, format("expert %zu of layer %zu is in file %u of %zu", expert, layer, place.file, opened.size()));
            }
            const DirectFile& file = *opened[place.file];
            if (place.offset % kBlobAlignment != 0) return invalid(file.path(), "a blob begins between two blocks", place, layer, expert);
            if (place.offset > file.bytes() || layouts[layer].bytes > file.bytes() - place.offset) {
                return invalid(file.path(), "the file is too short for a blob", place, layer, expert);
            }
        }
    }
    out = std::make_shared<BlobSource>(std::move(opened), std::move(places), std::move(layouts));
    return {};
}

}  // namespace tmoe
