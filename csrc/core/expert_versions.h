// Versions of experts that lie beside the ones that the model keeps in its usual place, so that each request computes with the version
// that was current when it began. Used on the backend's queue only.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/held_block.h"
#include "core/store/expert_layout.h"

namespace tmoe {

class DirectFile;

/** A version's bytes: a blob in a file. */
struct VersionPlace {
    uint64_t epoch = 0;      ///< requests of this epoch and later ones use it
    std::string path;        ///< empty: what the model was loaded with, where that is no blob of a local file
    uint64_t offset = 0;     ///< a multiple of kBlobAlignment
    uint32_t crc32c = 0;     ///< of the blob's layout.bytes
    bool same_bytes(const VersionPlace& other) const { return path == other.path && offset == other.offset && crc32c == other.crc32c; }
};

/** The versions of one expert that some request may still use, by ascending epoch; the first is that of all epochs before the second's. */
struct ExpertVersionList {
    uint32_t layer = 0, expert = 0;
    std::vector<VersionPlace> versions;
};

/** Opens a version's file and looks whether the blob is inside. MODEL_NOT_FOUND, FILE_READ_FAILED, MODEL_CORRUPTED {file, layer, expert, offset}. */
Status open_version(uint32_t layer, uint32_t expert, const VersionPlace& place, const ExpertLayout& layout, std::shared_ptr<DirectFile>& out);
/** Reads a version to `blob`: layout.bytes, aligned to kBlobAlignment. The same errors, EXPERT_CORRUPTED {layer, expert, file, offset, expected, actual}. */
Status read_version(uint32_t layer, uint32_t expert, const VersionPlace& place, const ExpertLayout& layout, uint8_t* blob);
/** Where a blob may begin at or behind `data`. */
inline uint8_t* blob_begin(uint8_t* data) {
    const auto address = reinterpret_cast<uintptr_t>(data);
    return data + ((address + kBlobAlignment - 1) / kBlobAlignment * kBlobAlignment - address);
}

/** A version in memory of its own. */
struct HeldVersion {
    uint32_t expert = 0;
    VersionPlace place;
    HeldBlock memory;
    uint8_t* blob = nullptr;   ///< inside of `memory`, at a multiple of kBlobAlignment
};

class ExpertVersions {
  public:
    using Layer = std::vector<std::unique_ptr<HeldVersion>>;

    void start(size_t layers) { layers_.resize(layers); }
    /** Versions of the layer's experts beside the first ones, in a fixed order. */
    const Layer& layer(size_t layer) const { return layers_[layer]; }
    Layer& layer(size_t layer) { return layers_[layer]; }
    /** The index in `layer` of the version that an epoch uses, or -1 where it is the expert's first one. */
    int64_t find(size_t layer, uint32_t expert, uint64_t epoch) const;

  private:
    std::vector<Layer> layers_;
};

}  // namespace tmoe
