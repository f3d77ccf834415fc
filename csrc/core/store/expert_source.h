// Where experts' bytes come from: blobs of a tiered checkpoint (as they are), or a GGUF file (read and repacked).
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "core/memory.h"
#include "core/store/crc32c.h"
#include "core/store/expert_layout.h"

namespace tmoe {

class DirectFile;

/** Memory of one reading thread, reused from read to read. */
struct ReadScratch {
    Buffer raw;
    Buffer converted, floats;  ///< where rows are stored in another type
};

/** Reads experts. Thread-safe. An expert is read in `pieces`, each on any thread, so that one expert can be read by several at once. */
class ExpertSource {
  public:
    virtual ~ExpertSource() = default;

    /** Pieces of an expert's read, at least 1. */
    virtual size_t pieces(uint32_t layer, uint32_t expert) const = 0;
    /** Bytes that reading the whole expert takes from the file. */
    virtual uint64_t file_bytes(uint32_t layer, uint32_t expert) const = 0;
    /**
     * Reads one piece of the expert into its place of the blob at `blob` (layout.bytes, aligned to kBlobAlignment). `sum`: its checksum,
     * where the file has them. FILE_READ_FAILED {errno}, CANCELLED.
     */
    virtual Status read(uint32_t layer, uint32_t expert, size_t piece, uint8_t* blob, ReadScratch& scratch, const std::atomic<bool>* cancel, uint32_t& sum) const = 0;
    /**
     * Called once, when every piece is there: checks what there is to check from the sums of the pieces.
     * EXPERT_CORRUPTED {layer, expert, file, offset, expected, actual}.
     */
    virtual Status check(uint32_t layer, uint32_t expert, const std::vector<uint32_t>& sums) const = 0;

    /** True where some experts are in an archive until they are brought. */
    virtual bool archives() const { return false; }
    /** False where the bytes are in an archive and nobody has brought them: there is nothing to read. */
    virtual bool local(uint32_t, uint32_t) const { return true; }
    /** An archived expert's blob is the file at `path` from now on. */
    virtual void bring(uint32_t, uint32_t, const std::string&) {}
    /** The file at `path` has gone: what was brought or adopted from it is in the archive again. */
    virtual void lose(uint32_t, uint32_t, const std::string&) {}
    /** The same with a part of a file that stays open. */
    virtual void adopt(uint32_t, uint32_t, std::shared_ptr<DirectFile>, uint64_t) {}
};

/** The tensors of one layer's experts in a GGUF file. */
struct GgufExperts {
    const GgufTensor* gate;
    const GgufTensor* up;
    const GgufTensor* down;
};
/**
 * Experts of a GGUF file or a gathered model, read with O_DIRECT where the file system has it. FILE_READ_FAILED when a file cannot be opened
 * again; `read` gives MODEL_FILE_INVALID {path, tensor, row} too, for rows that have no encoding.
 */
Status open_gguf_source(std::shared_ptr<GgufFile> file, std::vector<GgufExperts> layers, std::vector<ExpertLayout> layouts,
                        std::shared_ptr<ExpertSource>& out);

// Reading a blob, for every source of them.
/** An expert's blob is cut into so many equal pieces of about kReadBytes, whole blocks each. */
size_t blob_pieces(const ExpertLayout& layout);
/** Reads one piece of the blob at `offset` of the file into its place at `blob`; `sum` is its checksum. FILE_READ_FAILED {path, errno}. */
Status read_blob_piece(const DirectFile& file, uint64_t offset, const ExpertLayout& layout, size_t piece, uint8_t* blob, uint32_t& sum);
/** From the sums of all pieces: EXPERT_CORRUPTED {layer, expert, file, offset, expected, actual}; `path` and `offset` say where they were read. */
Status check_blob(uint32_t layer, uint32_t expert, const ExpertLayout& layout, const std::vector<uint32_t>& sums, uint32_t expected, const std::string& path,
                  uint64_t offset);

/** The place of a blob that is in no local file until it is brought. */
inline constexpr uint32_t kInArchive = UINT32_MAX;

/** One blob on disk. */
struct BlobPlace {
    uint32_t file = 0;       ///< index into BlobSource's files, or kInArchive
    uint64_t offset = 0;     ///< a multiple of kBlobAlignment
    uint32_t crc32c = 0;     ///< of the blob's layout.bytes
};
/**
 * Experts of a tiered checkpoint: places[layer][expert]. MODEL_NOT_FOUND, FILE_READ_FAILED {errno}, MODEL_CORRUPTED {file, layer, expert,
 * offset} where a file is too short for a blob. Archived ones fail with EXPERT_UNAVAILABLE {layer, expert, archived} until they are brought,
 * and when their file has gone since.
 */
Status open_blob_source(const std::vector<std::string>& files, std::vector<std::vector<BlobPlace>> places, std::vector<ExpertLayout> layouts,
                        std::shared_ptr<ExpertSource>& out);

}  // namespace tmoe
