// GGUF v2/v3 reader: bounds-checked header, tensor reads by pread. Nothing of the file is ever mapped.
// Format: the GGUF specification (ggml's docs/gguf.md).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
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
    uint64_t offset = 0;                 ///< of the entry (its key's length) in the file
    uint64_t bytes = 0;                  ///< key, type and value
};

struct GgufTensor {
    std::string name;
    uint32_t type_id = 0;                ///< as in the file; quant/types.h says which are supported
    std::vector<uint64_t> shape;         ///< innermost (row length) first, 1 to 4 dimensions
    uint64_t offset = 0;                 ///< absolute, in the file
    uint64_t bytes = 0;                  ///< size of the data in the file
};

/** A type that GGUF files can have, supported here or not. */
struct GgufType {
    uint32_t id;
    const char* name;
    uint32_t block, bytes;               ///< weights in a block of a row, and its bytes
};

/** The type of an id, or null where the format has no such type. */
const GgufType* gguf_type(uint32_t id);
/** Its name (`Q4_K`), or `type 99`. */
std::string gguf_type_name(uint32_t id);
/** Names of the types that the kernels have, for messages: `F32, F16, ...`. */
std::string supported_type_names();
/** Of these, the ones that encode_row can write (quant/blocks.h). */
std::string encodable_type_names();

/** Where rows of a tensor begin, as they are stored. */
struct StoredRows {
    uint32_t file = 0;                   ///< of the model's files
    uint64_t offset = 0;
};

class GatheredFiles;
struct GatherRequest;

/** An open GGUF file, or files of other formats that are read as if they were one. Descriptors live as long as the object (counters().open_files counts them). */
class GgufFile {
  public:
    ~GgufFile();
    GgufFile(const GgufFile&) = delete;
    GgufFile& operator=(const GgufFile&) = delete;

    /**
     * Opens and checks the whole header: magic, version (2 or 3), counts, lengths, types, alignment, dimensions, offsets, and that
     * the tensors fill the rest of the file, one beside the other. No size read from the file is trusted before it is compared with the bytes left.
     * Types that the format has but the kernels lack (Q2_K, ...) are let in, so that such a file can be inspected; loading refuses them.
     * MODEL_NOT_FOUND, FILE_READ_FAILED {errno}, RESOURCE_FILES_EXHAUSTED, MODEL_FILE_INVALID {offset}, MODEL_VERSION_MISMATCH {expected, actual, supported},
     * TENSOR_TYPE_UNSUPPORTED {tensor, type, supported} for an id that the format has not,
     * RESOURCE_MEMORY_EXHAUSTED {required, available} for metadata that would not fit.
     */
    static Status open(const std::string& path, std::shared_ptr<GgufFile>& out);

    /**
     * A model whose tensors lie in other files (core/gathered_files.h). The header is checked as a GGUF file's is, and that every tensor's parts
     * lie in their files. The errors of open, and VALIDATION_ERROR for a request that contradicts itself.
     */
    static Status gather(GatherRequest request, std::shared_ptr<GgufFile>& out);

    /** Reads `bytes` at `offset` of tensor `t`'s data. Thread-safe. FILE_READ_FAILED, also on a file that has shrunk. */
    Status read(const GgufTensor& t, uint64_t offset, void* to, size_t bytes) const;

    /** Reads bytes anywhere in the file; of a gathered model in its header alone. Thread-safe. FILE_READ_FAILED. */
    Status read_at(uint64_t offset, void* to, size_t bytes) const;

    /** The tensor of a name, or null. */
    const GgufTensor* find(const std::string& name) const;
    /** The metadata entry of a key, or null. */
    const GgufEntry* entry(const std::string& key) const;

    /** Of a gathered model: its folder. */
    const std::string& path() const { return path_; }
    /** Files that tensors lie in: their paths, and their descriptors, which are open as long as this object is. */
    size_t files() const;
    const std::string& file_path(size_t file) const;
    int descriptor(size_t file) const;
    /** The type of a tensor in its file: another than its own where it is converted as it is read. */
    uint32_t stored_type(const GgufTensor& t) const;
    /** Whether rows are put together from several places of their files. */
    bool apart(const GgufTensor& t) const;
    /** Whether each run of `rows` rows, counted from the first one, lies in one file in its order, row behind row. */
    bool stored_together(const GgufTensor& t, uint64_t rows) const;
    /** Where a row begins; those that are stored together follow it. */
    StoredRows stored_rows(const GgufTensor& t, uint64_t row) const;
    uint64_t file_bytes() const { return file_bytes_; }
    uint32_t version() const { return version_; }
    uint32_t alignment() const { return alignment_; }
    const std::vector<GgufEntry>& metadata() const { return metadata_; }
    const std::vector<GgufTensor>& tensors() const { return tensors_; }

  private:
    friend class GgufHeader;
    GgufFile();
    size_t index(const GgufTensor& t) const { return static_cast<size_t>(&t - tensors_.data()); }
    std::string path_;
    std::unique_ptr<GatheredFiles> gathered_;   ///< null of a GGUF file
    int descriptor_ = -1;
    uint64_t file_bytes_ = 0;
    uint32_t version_ = 0, alignment_ = 32;
    std::vector<GgufEntry> metadata_;
    std::vector<GgufTensor> tensors_;
    std::unordered_map<std::string, size_t> tensor_index_, entry_index_;
};

}  // namespace tmoe
