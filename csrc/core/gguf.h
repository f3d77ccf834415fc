// GGUF v2/v3 reader: bounds-checked header, tensor reads by pread. Nothing of the file is ever mapped.
// Format: the GGUF specification (ggml's docs/gguf.md).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"

namespace tmoe {

/** One metadata value. Arrays of numbers keep their bytes; arrays of strings keep the strings. */
struct GgufValue {
    enum Type : uint32_t { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };
    Type type = U8;
    double number = 0;                   ///< any number or bool (integers up to 2^53 exact)
    std::string text;                    ///< STRING
    Type element = U8;                   ///< ARRAY: type of its elements (nested arrays are refused)
    std::vector<double> numbers;         ///< ARRAY of numbers or bools
    std::vector<std::string> strings;    ///< ARRAY of strings
};

struct GgufEntry {
    std::string key;
    GgufValue value;
};

struct GgufTensor {
    std::string name;
    uint32_t type_id = 0;                ///< as in the file; quant/types.h says which are supported
    std::vector<uint64_t> shape;         ///< innermost (row length) first, 1 to 4 dimensions
    uint64_t offset = 0;                 ///< absolute, in the file
    uint64_t bytes = 0;                  ///< size of the data in the file
};

/** An open GGUF file. The descriptor lives as long as the object (counters().open_files counts it). */
class GgufFile {
  public:
    ~GgufFile();
    GgufFile(const GgufFile&) = delete;
    GgufFile& operator=(const GgufFile&) = delete;

    /**
     * Opens and checks the whole header: magic, version (2 or 3), counts, lengths, types, alignment, dimensions, offsets, and that
     * every tensor of a known type lies inside the file. No size read from the file is trusted before it is compared with the bytes left.
     * MODEL_NOT_FOUND, FILE_READ_FAILED {errno}, MODEL_FILE_INVALID {offset}, MODEL_VERSION_MISMATCH {expected, actual, supported},
     * TENSOR_TYPE_UNSUPPORTED {tensor, type, supported}.
     */
    static Status open(const std::string& path, std::shared_ptr<GgufFile>& out);

    /** Reads `bytes` at `offset` of tensor `t`'s data. Thread-safe. FILE_READ_FAILED, also on a file that has shrunk. */
    Status read(const GgufTensor& t, uint64_t offset, void* to, size_t bytes) const;

    const GgufTensor* find(const std::string& name) const;

    const std::string& path() const { return path_; }
    uint64_t file_bytes() const { return file_bytes_; }
    uint32_t version() const { return version_; }
    const std::vector<GgufEntry>& metadata() const { return metadata_; }
    const std::vector<GgufTensor>& tensors() const { return tensors_; }

  private:
    GgufFile() = default;
    std::string path_;
    int descriptor_ = -1;
    uint64_t file_bytes_ = 0;
    uint32_t version_ = 0;
    std::vector<GgufEntry> metadata_;
    std::vector<GgufTensor> tensors_;
};

}  // namespace tmoe
