// The parser of a GGUF header. Only core/gguf.cpp uses it.
#pragma once
#include <unordered_set>

#include "core/gguf.h"

namespace tmoe {

/**
 * Walks the header once, front to back, through a window of the file. Every count and length is compared with the bytes left
 * before anything of that size is allocated; what a value takes in memory is bounded too, since it can be larger than in the file.
 */
class GgufHeader {
  public:
    explicit GgufHeader(GgufFile& file) : file_(file) {}

    /** Fills the file's version, alignment, metadata and tensors; the errors of GgufFile::open. */
    Status parse();

  private:
    Status parse_start(uint64_t& tensors, uint64_t& entries);
    Status parse_entry(GgufEntry& entry);
    Status parse_scalar(GgufValue::Type type, const std::string& key, double& number);
    Status parse_array(const std::string& key, GgufValue& value);
    Status parse_alignment();
    Status parse_tensor(GgufTensor& tensor);
    Status place_tensors();

    Status take(void* to, size_t bytes, const char* what);
    template <class T> Status number(T& to, const char* what) { return take(&to, sizeof to, what); }
    Status string(std::string& to, uint64_t longest, const char* what);
    Status charge(uint64_t count, size_t each);
    uint64_t left() const;
    Status invalid(uint64_t offset, const std::string& what) const;

    GgufFile& file_;
    uint64_t position_ = 0;
    uint64_t window_start_ = 0;
    std::vector<uint8_t> window_;
    uint64_t expanded_ = 0, next_check_ = 0;
};

}  // namespace tmoe
