#include "core/gguf_writer.h"

namespace tmoe {

void GgufHeaderWriter::raw(const void* from, size_t count) {
    const auto* in = static_cast<const uint8_t*>(from);
    bytes_.insert(bytes_.end(), in, in + count);
}

void GgufHeaderWriter::text(const std::string& value) {
    number(static_cast<uint64_t>(value.size()));
    raw(value.data(), value.size());
}

void GgufHeaderWriter::begin(uint32_t version, uint64_t tensors, uint64_t entries) {
    raw("GGUF", 4);
    number(version);
    number(tensors);
    number(entries);
}

Status GgufHeaderWriter::copy(const GgufFile& file, const GgufEntry& entry) {
    const size_t at = bytes_.size();
    bytes_.resize(at + static_cast<size_t>(entry.bytes));
    return file.read_at(entry.offset, bytes_.data() + at, static_cast<size_t>(entry.bytes));
}

void GgufHeaderWriter::entry(const std::string& key, uint32_t value) {
    text(key);
    number(static_cast<uint32_t>(GgufValue::U32));
    number(value);
}

void GgufHeaderWriter::tensor(const std::string& name, const std::vector<uint64_t>& shape, uint32_t type_id, uint64_t offset) {
    text(name);
    number(static_cast<uint32_t>(shape.size()));
    for (const uint64_t size : shape) number(size);
    number(type_id);
    number(offset);
}

}  // namespace tmoe
