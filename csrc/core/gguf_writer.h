// The header of a GGUF file, as bytes to write: metadata copied as they are, tensors described anew.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/gguf.h"

namespace tmoe {

/** Appends the fields of a header one after another; the caller keeps the format's order. */
class GgufHeaderWriter {
  public:
    /** Magic, version and the two counts. */
    void begin(uint32_t version, uint64_t tensors, uint64_t entries);
    /** A metadata entry of the file, byte for byte. FILE_READ_FAILED. */
    Status copy(const GgufFile& file, const GgufEntry& entry);
    /** A metadata entry of type U32. */
    void entry(const std::string& key, uint32_t value);
    /** `offset`: from the start of the data. */
    void tensor(const std::string& name, const std::vector<uint64_t>& shape, uint32_t type_id, uint64_t offset);

    const std::vector<uint8_t>& bytes() const { return bytes_; }

  private:
    void raw(const void* from, size_t count);
    template <class T> void number(T value) { raw(&value, sizeof value); }
    void text(const std::string& value);

    std::vector<uint8_t> bytes_;
};

}  // namespace tmoe
