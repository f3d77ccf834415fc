// Files and sources for store_check.cpp: a folder with the same seeded experts as a GGUF file and as blobs, and a source that can hold
// reads back. Everything is read from real files.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/gguf.h"
#include "core/store/expert_source.h"
#include "quant/repack.h"

namespace tmoe {

/** Seeded numbers: the same on every machine. */
struct Random {
    uint64_t state;
    uint32_t next() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<uint32_t>(state >> 33);
    }
    uint32_t below(uint32_t end) { return next() % end; }
};

/** A folder that goes away with the object. */
struct Folder {
    std::string path;
    explicit Folder(const char* in) {
        std::string name = std::string(in) + "/store-check-XXXXXX";
        path = mkdtemp(name.data()) ? name : "";
    }
    ~Folder() {
        for (const char* name : {"model.gguf", "experts.bin"}) unlink((path + "/" + name).c_str());
        rmdir(path.c_str());
    }
};

/** Experts of random weights, in both forms of file. */
struct Experts {
    size_t layers, experts, width, hidden;
    ExpertLayout layout;
    std::vector<std::vector<uint8_t>> blobs;   ///< [layer · experts + expert], packed here by hand
    std::string gguf_path, blob_path;
    std::vector<std::vector<BlobPlace>> places;

    Experts(const std::string& folder, size_t layers, size_t experts, size_t width, size_t hidden)
        : layers(layers), experts(experts), width(width), hidden(hidden), layout(expert_layout(DType::Q4_0, DType::Q8_0, DType::Q4_0, width, hidden)),
          gguf_path(folder + "/model.gguf"), blob_path(folder + "/experts.bin") {
        write_files();
    }

    std::vector<ExpertLayout> layouts() const { return std::vector<ExpertLayout>(layers, layout); }
    const std::vector<uint8_t>& blob(uint32_t layer, uint32_t expert) const { return blobs[layer * experts + expert]; }

    Status open_blobs(std::shared_ptr<ExpertSource>& out) const { return open_blob_source({blob_path}, places, layouts(), out); }
    Status open_gguf(std::shared_ptr<ExpertSource>& out) const {
        std::shared_ptr<GgufFile> file;
        TMOE_RETURN_IF_ERROR(GgufFile::open(gguf_path, file));
        std::vector<GgufExperts> tensors;
        for (size_t layer = 0; layer < layers; layer++) {
            const std::string prefix = "blk." + std::to_string(layer);
            tensors.push_back({file->find(prefix + ".gate"), file->find(prefix + ".up"), file->find(prefix + ".down")});
        }
        return open_gguf_source(file, std::move(tensors), layouts(), out);
    }

  private:
    template <class T> static void put(std::vector<uint8_t>& to, T value) {
        const size_t at = to.size();
        to.resize(at + sizeof value);
        memcpy(to.data() + at, &value, sizeof value);
    }
    static void put_text(std::vector<uint8_t>& to, const std::string& text) {
        put<uint64_t>(to, text.size());
        to.insert(to.end(), text.begin(), text.end());
    }

    void write_files() {
        const ExpertPart* parts[] = {&layout.gate, &layout.up, &layout.down};
        const char* names[] = {".gate", ".up", ".down"};
        std::vector<uint8_t> header = {'G', 'G', 'U', 'F'};
        put<uint32_t>(header, 3);
        put<uint64_t>(header, layers * 3);
        put<uint64_t>(header, 0);
        std::vector<uint8_t> data;
        Random random{layers * 1000 + experts};
        blobs.assign(layers * experts, std::vector<uint8_t>(layout.bytes));
        for (size_t layer = 0; layer < layers; layer++) {
            for (size_t p = 0; p < 3; p++) {
                const ExpertPart& part = *parts[p];
                const size_t row = row_bytes(part.type, part.columns), slice = part.rows * row;
                put_text(header, "blk." + std::to_string(layer) + names[p]);
                put<uint32_t>(header, 3);
                put<uint64_t>(header, part.columns);
                put<uint64_t>(header, part.rows);
                put<uint64_t>(header, experts);
                put<uint32_t>(header, static_cast<uint32_t>(part.type));
                put<uint64_t>(header, data.size());
                for (size_t expert = 0; expert < experts; expert++) {
                    const size_t at = data.size();
                    data.resize(at + slice);
                    for (size_t i = 0; i < slice; i++) data[at + i] = static_cast<uint8_t>(random.next());
                    uint8_t* to = blobs[layer * experts + expert].data() + part.offset;
                    for (size_t first = 0; first < part.rows; first += 16) {
                        pack_group(part.type, data.data() + at + first * row, std::min<size_t>(16, part.rows - first), part.columns,
                                   to + first / 16 * packed_group_bytes(part.type, part.columns));
                    }
                }
                data.resize((data.size() + 31) / 32 * 32);
            }
        }
        header.resize((header.size() + 31) / 32 * 32);
        FILE* file = fopen(gguf_path.c_str(), "wb");
        fwrite(header.data(), 1, header.size(), file);
        fwrite(data.data(), 1, data.size(), file);
        fclose(file);
        file = fopen(blob_path.c_str(), "wb");
        places.assign(layers, std::vector<BlobPlace>(experts));
        for (size_t i = 0; i < blobs.size(); i++) {
            places[i / experts][i % experts] = {0, i * layout.bytes, crc32c(blobs[i].data(), layout.bytes)};
            fwrite(blobs[i].data(), 1, layout.bytes, file);
        }
        fclose(file);
    }
};

/**
 * Passes reads on to a real source; holds them back while its gate is shut, or for a seeded while each, and the check of one expert until that is
 * let go. Notes the order of the reads.
 */
class Held final : public ExpertSource {
  public:
    Held(std::shared_ptr<ExpertSource> source, uint32_t most_microseconds, uint64_t seed)
        : source_(std::move(source)), most_(most_microseconds), random_{seed} {}

    size_t pieces(uint32_t layer, uint32_t expert) const override { return source_->pieces(layer, expert); }
    uint64_t file_bytes(uint32_t layer, uint32_t expert) const override { return source_->file_bytes(layer, expert); }
    Status read(uint32_t layer, uint32_t expert, size_t piece, uint8_t* blob, ReadScratch& scratch, const std::atomic<bool>* cancel, uint32_t& sum) const override {
        uint32_t pause = 0;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            order_.push_back({layer, expert});
            begun_.notify_all();
            opened_.wait(lock, [&] { return permits_ > 0; });
            permits_ -= permits_ != SIZE_MAX;
            if (most_) pause = random_.below(most_);
        }
        if (pause) std::this_thread::sleep_for(std::chrono::microseconds(pause));
        return source_->read(layer, expert, piece, blob, scratch, cancel, sum);
    }
    Status check(uint32_t layer, uint32_t expert, const std::vector<uint32_t>& sums) const override {
        std::unique_lock<std::mutex> lock(mutex_);
        if (held_ == std::make_pair(layer, expert)) {
            held_ = kNone;
            checks_++;
            begun_.notify_all();
            opened_.wait(lock, [&] { return checks_ == 0; });
        }
        lock.unlock();
        return source_->check(layer, expert, sums);
    }
    /** The next check of the expert waits for `let_check_go`. */
    void hold_check(uint32_t layer, uint32_t expert) {
        std::lock_guard<std::mutex> lock(mutex_);
        held_ = {layer, expert};
    }
    void let_check_go() {
        std::lock_guard<std::mutex> lock(mutex_);
        checks_ = 0;
        opened_.notify_all();
    }
    bool wait_for_check() {
        std::unique_lock<std::mutex> lock(mutex_);
        return begun_.wait_for(lock, kLongest, [&] { return checks_ > 0; });
    }

    void shut() {
        std::lock_guard<std::mutex> lock(mutex_);
        permits_ = 0;
    }
    void open() { allow(SIZE_MAX); }
    /** So many reads go on. */
    void allow(size_t reads) {
        std::lock_guard<std::mutex> lock(mutex_);
        permits_ = reads;
        opened_.notify_all();
    }
    /** Waits until so many reads have begun in all; false where they do not. */
    bool wait_for_reads(size_t count) {
        std::unique_lock<std::mutex> lock(mutex_);
        return begun_.wait_for(lock, kLongest, [&] { return order_.size() >= count; });
    }
    std::vector<std::pair<uint32_t, uint32_t>> order() const {
        std::lock_guard<std::mutex> lock(mutex_);
        return order_;
    }

  private:
    static constexpr std::chrono::seconds kLongest{20};
    static constexpr std::pair<uint32_t, uint32_t> kNone{UINT32_MAX, UINT32_MAX};
    std::shared_ptr<ExpertSource> source_;
    uint32_t most_;
    mutable std::pair<uint32_t, uint32_t> held_ = kNone;
    mutable size_t checks_ = 0;
    mutable Random random_;
    mutable std::mutex mutex_;
    mutable std::condition_variable opened_, begun_;
    mutable std::vector<std::pair<uint32_t, uint32_t>> order_;
    mutable size_t permits_ = SIZE_MAX;
};

}  // namespace tmoe
