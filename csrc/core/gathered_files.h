// Tensors that lie in several files, in parts and perhaps in another type than the one asked for: a safetensors folder has every expert's
// matrix by itself. GgufFile::gather makes one model of them, which the rest of this library reads as it reads a GGUF file.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "core/memory.h"
#include "quant/types.h"

namespace tmoe {

/** Where a tensor's bytes are. Parts have equal shares of its rows, in order. */
struct GatheredTensor {
    DType stored = DType::F32;          ///< F32, F16, BF16, or MXFP4 with scales
    /**
     * Where not 0: half the rows of an attention head. Rows i and i + half of a head become rows 2i and 2i + 1, so that rotary pairs are
     * neighbours: what converters to GGUF do to Q and K of the architecture `llama`.
     */
    uint32_t half_head = 0;
    /** Weights from the begin of a row to that of the next one; 0: a part's rows follow one another. Only then may half_head not be 0. */
    uint64_t row_step = 0;
    /** Weights from one of a row to the next one: 1 but for floats of matrices that lie turned, or beside those of another. */
    uint64_t column_step = 1;
    std::vector<StoredRows> parts;
    /**
     * Of MXFP4, one for each part: where the scales of its blocks are, a byte each; parts are then blocks of 16 bytes, with the codes of weights 2i
     * and 2i + 1 in byte i. Steps count weights in both.
     */
    std::vector<StoredRows> scales;

    /** Whether rows of a part are where they would be in a GGUF file. */
    bool plain() const { return row_step == 0 && scales.empty(); }
};

/** What GgufFile::gather is told; who tells it has read the files' own headers. */
struct GatherRequest {
    std::string path;                    ///< of the folder
    std::vector<uint8_t> header;         ///< a GGUF header of the model, padded to its alignment
    uint64_t data_bytes = 0;             ///< that its tensors take behind it
    std::vector<std::string> files;
    std::vector<uint64_t> file_bytes;    ///< their sizes when their headers were read
    std::vector<GatheredTensor> tensors; ///< in the order of the header
};

/** Decodes rows of one type and encodes them in another. Thread-safe: scratch is the caller's. */
class RowConverter {
  public:
    RowConverter(DType from, DType to, size_t columns) : from_(from), to_(to), columns_(columns) {}
    /** From one row to the next one, as it is stored and as it becomes. */
    size_t from_bytes() const { return row_bytes(from_, columns_); }
    size_t to_bytes() const { return row_bytes(to_, columns_); }
    bool same() const { return from_ == to_; }
    /** MODEL_FILE_INVALID {path, tensor, row} for a row that has no encoding; `first_row` and the names are for that message. */
    Status convert(const uint8_t* from, size_t rows, uint8_t* to, Buffer& scratch, const std::string& path, const std::string& tensor, uint64_t first_row) const;

  private:
    DType from_, to_;
    size_t columns_;
};

/** The open files behind a gathered model. */
class GatheredFiles {
  public:
    explicit GatheredFiles(GatherRequest request) : request_(std::move(request)) {}
    ~GatheredFiles();
    GatheredFiles(const GatheredFiles&) = delete;
    GatheredFiles& operator=(const GatheredFiles&) = delete;

    /** MODEL_NOT_FOUND, FILE_READ_FAILED, also for a file of another size than before, MODEL_FILE_INVALID, RESOURCE_FILES_EXHAUSTED. */
    Status open();
    /** Whether every part lies in its file, and gives what its tensor needs. VALIDATION_ERROR {tensor}. */
    Status check(const std::vector<GgufTensor>& tensors) const;

    const GatherRequest& request() const { return request_; }
    int descriptor(size_t file) const { return descriptors_[file]; }
    /** Reads of the header; what lies behind it is zero. */
    void read_header(uint64_t offset, void* to, size_t bytes) const;
    /** Reads bytes of the index-th tensor as `tensor` describes it. Thread-safe. FILE_READ_FAILED, MODEL_FILE_INVALID, RESOURCE_MEMORY_EXHAUSTED. */
    Status read(size_t index, const GgufTensor& tensor, uint64_t offset, uint8_t* to, size_t bytes) const;
    /** Where a row and those that follow it in its part begin. */
    StoredRows rows(size_t index, const GgufTensor& tensor, uint64_t row) const;

  private:
    Status read_stored(size_t index, const GgufTensor& tensor, uint64_t row, size_t rows, uint8_t* to) const;
    Status read_apart(const GatheredTensor& own, size_t columns, size_t part, uint64_t row, size_t rows, uint8_t* to) const;
    Status read_same(const GatheredTensor& own, uint64_t part_bytes, uint64_t offset, uint8_t* to, size_t bytes) const;

    GatherRequest request_;
    std::vector<int> descriptors_;
};

/** Rows of a tensor: what all its dimensions but the first come to. */
uint64_t rows_of(const GgufTensor& tensor);

}  // namespace tmoe
