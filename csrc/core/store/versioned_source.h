// A source whose experts can be given other bytes while the store reads from it: a blob in a file takes an expert's place.
#pragma once
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/store/expert_source.h"

namespace tmoe {

/** Of `inner`, but for what was replaced. */
class VersionedSource final : public ExpertSource {
  public:
    VersionedSource(std::shared_ptr<ExpertSource> inner, std::vector<ExpertLayout> layouts) : inner_(std::move(inner)), layouts_(std::move(layouts)) {}

    /**
     * The expert is the blob at `offset` of the file from now on. What is being read of the one before must not arrive any more: its pieces
     * may be of either.
     */
    void replace(uint32_t layer, uint32_t expert, std::shared_ptr<DirectFile> file, uint64_t offset, uint32_t crc32c);

    size_t pieces(uint32_t layer, uint32_t expert) const override;
    uint64_t file_bytes(uint32_t layer, uint32_t expert) const override;
    Status read(uint32_t layer, uint32_t expert, size_t piece, uint8_t* blob, ReadScratch& scratch, const std::atomic<bool>* cancel, uint32_t& sum) const override;
    Status check(uint32_t layer, uint32_t expert, const std::vector<uint32_t>& sums) const override;
    bool local(uint32_t layer, uint32_t expert) const override { return find(layer, expert).file || inner_->local(layer, expert); }
    void bring(uint32_t layer, uint32_t expert, const std::string& path) override { inner_->bring(layer, expert, path); }
    bool archives() const override { return inner_->archives(); }
    void lose(uint32_t layer, uint32_t expert, const std::string& path) override { inner_->lose(layer, expert, path); }
    void adopt(uint32_t layer, uint32_t expert, std::shared_ptr<DirectFile> file, uint64_t offset) override {
        inner_->adopt(layer, expert, std::move(file), offset);
    }

  private:
    struct Version {
        std::shared_ptr<DirectFile> file;   ///< null: the inner source's
        uint64_t offset = 0;
        uint32_t crc32c = 0;
    };
    static uint64_t key(uint32_t layer, uint32_t expert) { return uint64_t{layer} << 32 | expert; }
    Version find(uint32_t layer, uint32_t expert) const;

    std::shared_ptr<ExpertSource> inner_;
    std::vector<ExpertLayout> layouts_;
    mutable std::mutex mutex_;
    std::unordered_map<uint64_t, Version> versions_;
};

}  // namespace tmoe
