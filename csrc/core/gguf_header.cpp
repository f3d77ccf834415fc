#include "core/gguf_header.h"

#include <algorithm>
#include <cstring>

#include "core/gguf_keys.h"
#include "core/memory.h"

namespace tmoe {

namespace {

constexpr uint64_t kHeaderLimit = uint64_t{128} << 20;  // the largest known headers (250,000-token vocabularies) are under 32 MiB
constexpr size_t kWindow = size_t{1} << 18;
constexpr uint64_t kLongestKey = 65535;                 // the specification's limit
constexpr uint64_t kLongestName = 1024;                 // the specification says 64; some converters go over
constexpr uint64_t kLeastEntry = 8 + 1 + 4 + 1;         // length and text of a key, type, one byte of value
constexpr uint64_t kLeastTensor = 8 + 1 + 4 + 8 + 4 + 8;
constexpr uint64_t kCheckFrom = uint64_t{1} << 20;      // the system is asked for its free memory once per so much metadata

size_t scalar_bytes(GgufValue::Type type) {
    switch (type) {
        case GgufValue::U8:
        case GgufValue::I8:
        case GgufValue::BOOL:
            return 1;
        case GgufValue::U16:
        case GgufValue::I16:
            return 2;
        case GgufValue::U32:
        case GgufValue::I32:
        case GgufValue::F32:
            return 4;
        case GgufValue::U64:
        case GgufValue::I64:
        case GgufValue::F64:
            return 8;
        default:
            return 0;
    }
}

template <class T> double read_as(const uint8_t* from) {
    T value;
    memcpy(&value, from, sizeof value);
    return static_cast<double>(value);
}

double scalar_value(GgufValue::Type type, const uint8_t* from) {
    switch (type) {
        case GgufValue::I8:
            return read_as<int8_t>(from);
        case GgufValue::U16:
            return read_as<uint16_t>(from);
        case GgufValue::I16:
            return read_as<int16_t>(from);
        case GgufValue::U32:
            return read_as<uint32_t>(from);
        case GgufValue::I32:
            return read_as<int32_t>(from);
        case GgufValue::F32:
            return read_as<float>(from);
        case GgufValue::U64:
            return read_as<uint64_t>(from);
        case GgufValue::I64:
            return read_as<int64_t>(from);
        case GgufValue::F64:
            return read_as<double>(from);
        default:
            return read_as<uint8_t>(from);
    }
}

// Keys and names come from the file: what is not plain text would garble a message.
std::string printable(const std::string& text) {
    std::string out;
    for (const char c : text.substr(0, 100)) out += c >= 32 && c < 127 ? c : '?';
    return out;
}

}  // namespace

Status GgufHeader::invalid(uint64_t offset, const std::string& what) const {
    return Status(StatusCode::MODEL_FILE_INVALID, what + format(" (at byte %llu)", static_cast<unsigned long long>(offset)))
        .with("path", file_.path_)
        .with("offset", static_cast<double>(offset))
        .with("fileBytes", static_cast<double>(file_.file_bytes_));
}

uint64_t GgufHeader::left() const { return std::min(file_.file_bytes_, kHeaderLimit) - position_; }

Status GgufHeader::take(void* to, size_t bytes, const char* what) {
    if (bytes > left()) {
        return invalid(position_, format("%s needs %zu bytes where the %s has %llu left", what, bytes,
                                         file_.file_bytes_ > kHeaderLimit ? "largest header allowed" : "file",
                                         static_cast<unsigned long long>(left())));
    }
    auto* out = static_cast<uint8_t*>(to);
    while (bytes > 0) {
        const uint64_t inside = position_ - window_start_;
        if (inside >= window_.size()) {
            const uint64_t rest = file_.file_bytes_ - position_;
            window_.resize(static_cast<size_t>(std::min<uint64_t>(rest, kWindow)));
            window_start_ = position_;
            TMOE_RETURN_IF_ERROR(file_.read_at(window_start_, window_.data(), window_.size()));
            continue;
        }
        const size_t part = std::min(bytes, static_cast<size_t>(window_.size() - inside));
        memcpy(out, window_.data() + inside, part);
        out += part;
        bytes -= part;
        position_ += part;
    }
    return {};
}

// What metadata takes in memory, before it is allocated: a byte of an array of numbers becomes eight.
Status GgufHeader::charge(uint64_t count, size_t each) {
    expanded_ += count * each;
    if (expanded_ < std::max(next_check_, kCheckFrom)) return {};
    next_check_ = expanded_ + kCheckFrom;  // asking for each of a million small arrays would take minutes
    const int64_t available = available_memory();
    if (available < 0 || expanded_ <= static_cast<uint64_t>(available) / 2) return {};
    return Status(StatusCode::RESOURCE_MEMORY_EXHAUSTED, format("the file's metadata needs %llu bytes of memory",
                                                                static_cast<unsigned long long>(expanded_)))
        .with("required", static_cast<double>(expanded_))
        .with("available", static_cast<double>(available));
}

Status GgufHeader::string(std::string& to, uint64_t longest, const char* what) {
    const uint64_t at = position_;
    uint64_t length = 0;
    TMOE_RETURN_IF_ERROR(number(length, what));
    if (length > left() || length > longest) {
        return invalid(at, format("the length of %s is %llu; the most possible is %llu", what,
                                  static_cast<unsigned long long>(length),
                                  static_cast<unsigned long long>(std::min(left(), longest))));
    }
    if (length >= kCheckFrom) TMOE_RETURN_IF_ERROR(charge(length, 1));
    to.resize(static_cast<size_t>(length));
    return take(&to[0], to.size(), what);
}

Status GgufHeader::parse_start(uint64_t& tensors, uint64_t& entries) {
    char magic[4];
    TMOE_RETURN_IF_ERROR(take(magic, sizeof magic, "the magic number"));
    if (memcmp(magic, "GGUF", 4) != 0) return invalid(0, "this is not a GGUF file: its first four bytes are not \"GGUF\"");
    TMOE_RETURN_IF_ERROR(number(file_.version_, "the version"));
    if (file_.version_ != 2 && file_.version_ != 3) {
        const bool swapped = file_.version_ >= (1u << 24) && (file_.version_ & 0xffffffu) == 0;
        return Status(StatusCode::MODEL_VERSION_MISMATCH,
                      format("GGUF version %u is not supported%s; versions 2 and 3 are", file_.version_,
                             swapped ? " (a big-endian file)" : ""))
            .with("expected", 3)
            .with("actual", file_.version_)
            .with("supported", "2, 3");
    }
    const uint64_t at = position_;
    TMOE_RETURN_IF_ERROR(number(tensors, "the number of tensors"));
    TMOE_RETURN_IF_ERROR(number(entries, "the number of metadata entries"));
    if (tensors > left() / kLeastTensor) {
        return invalid(at, format("%llu tensors cannot fit in the file", static_cast<unsigned long long>(tensors)));
    }
    if (entries > left() / kLeastEntry) {
        return invalid(at + 8, format("%llu metadata entries cannot fit in the file", static_cast<unsigned long long>(entries)));
    }
    return charge(tensors * sizeof(GgufTensor) + entries * sizeof(GgufEntry), 1);
}

Status GgufHeader::parse_scalar(GgufValue::Type type, const std::string& key, double& number) {
    uint8_t bytes[8];
    const uint64_t at = position_;
    TMOE_RETURN_IF_ERROR(take(bytes, scalar_bytes(type), "a metadata value"));
    if (type == GgufValue::BOOL && bytes[0] > 1) return invalid(at, "the boolean " + printable(key) + " is neither 0 nor 1");
    number = scalar_value(type, bytes);
    return {};
}

Status GgufHeader::parse_array(const std::string& key, GgufValue& value) {
    const uint64_t at = position_;
    uint32_t element = 0;
    uint64_t count = 0;
    TMOE_RETURN_IF_ERROR(number(element, "an array's type"));
    TMOE_RETURN_IF_ERROR(number(count, "an array's length"));
    if (element == GgufValue::ARRAY) return invalid(at, "the array " + printable(key) + " holds arrays, which are not supported");
    if (element > GgufValue::F64) return invalid(at, "the array " + printable(key) + format(" has the unknown value type %u", element));
    value.element = static_cast<GgufValue::Type>(element);
    const bool strings = value.element == GgufValue::STRING;
    const size_t each = strings ? 8 : scalar_bytes(value.element);
    if (count > left() / each) {
        return invalid(at + 4, "the array " + printable(key) + format(" has %llu elements, more than the bytes left can hold",
                                                                      static_cast<unsigned long long>(count)));
    }
    TMOE_RETURN_IF_ERROR(charge(count, strings ? sizeof(std::string) : sizeof(double)));
    if (strings) {
        value.strings.resize(static_cast<size_t>(count));
        for (std::string& text : value.strings) TMOE_RETURN_IF_ERROR(string(text, kHeaderLimit, "a string of an array"));
        return {};
    }
    value.numbers.resize(static_cast<size_t>(count));
    for (double& item : value.numbers) TMOE_RETURN_IF_ERROR(parse_scalar(value.element, key, item));
    return {};
}

Status GgufHeader::parse_entry(GgufEntry& entry) {
    entry.offset = position_;
    TMOE_RETURN_IF_ERROR(string(entry.key, kLongestKey, "a metadata key"));
    if (entry.key.empty()) return invalid(entry.offset, "a metadata key is empty");
    const uint64_t at = position_;
    uint32_t type = 0;
    TMOE_RETURN_IF_ERROR(number(type, "a metadata type"));
    if (type > GgufValue::F64) {
        return invalid(at, "metadata " + printable(entry.key) + format(" has the unknown value type %u", type));
    }
    entry.value.type = static_cast<GgufValue::Type>(type);
    if (type == GgufValue::STRING) {
        TMOE_RETURN_IF_ERROR(string(entry.value.text, kHeaderLimit, "a metadata string"));
    } else if (type == GgufValue::ARRAY) {
        TMOE_RETURN_IF_ERROR(parse_array(entry.key, entry.value));
    } else {
        TMOE_RETURN_IF_ERROR(parse_scalar(entry.value.type, entry.key, entry.value.number));
    }
    entry.bytes = position_ - entry.offset;
    const std::string wrong = wrong_type(entry);
    return wrong.empty() ? Status() : invalid(at, "metadata " + printable(entry.key) + " " + wrong);
}

Status GgufHeader::parse_alignment() {
    const GgufEntry* entry = file_.entry("general.alignment");
    if (!entry) return {};
    const double number = entry->value.number;
    const bool sane = entry->value.type == GgufValue::U32 && number >= 8 && number <= 1 << 20;
    const auto alignment = sane ? static_cast<uint32_t>(number) : 0;
    if (!sane || (alignment & (alignment - 1)) != 0) {
        return invalid(entry->offset, "general.alignment is not a 32-bit power of two from 8 to 1048576");
    }
    file_.alignment_ = alignment;
    return {};
}

Status GgufHeader::parse_tensor(GgufTensor& tensor) {
    const uint64_t at = position_;
    TMOE_RETURN_IF_ERROR(string(tensor.name, kLongestName, "a tensor's name"));
    if (tensor.name.empty()) return invalid(at, "a tensor's name is empty");
    const std::string who = "tensor " + printable(tensor.name);
    uint32_t dimensions = 0;
    TMOE_RETURN_IF_ERROR(number(dimensions, "a tensor's number of dimensions"));
    if (dimensions < 1 || dimensions > 4) {
        return invalid(at, who + format(" has %u dimensions; 1 to 4 are possible", dimensions));
    }
    tensor.shape.resize(dimensions);
    uint64_t rows = 1;
    for (size_t i = 0; i < dimensions; i++) {
        TMOE_RETURN_IF_ERROR(number(tensor.shape[i], "a tensor's dimension"));
        if (tensor.shape[i] == 0) return invalid(at, who + " has a dimension of 0");
        if (tensor.shape[i] > INT64_MAX) return invalid(at, who + " has a dimension over 2^63");
        if (i > 0 && __builtin_mul_overflow(rows, tensor.shape[i], &rows)) return invalid(at, who + " has more rows than 2^64");
    }
    TMOE_RETURN_IF_ERROR(number(tensor.type_id, "a tensor's type"));
    TMOE_RETURN_IF_ERROR(number(tensor.offset, "a tensor's offset"));
    const GgufType* type = gguf_type(tensor.type_id);
    if (!type) {
        return Status(StatusCode::TENSOR_TYPE_UNSUPPORTED, who + " has the unknown type " + std::to_string(tensor.type_id))
            .with("tensor", tensor.name)
            .with("type", gguf_type_name(tensor.type_id))
            .with("supported", supported_type_names());
    }
    if (tensor.shape[0] % type->block != 0) {
        return invalid(at, who + format(" has rows of %llu weights, not a multiple of %s's block of %u",
                                        static_cast<unsigned long long>(tensor.shape[0]), type->name, type->block));
    }
    uint64_t row = 0;
    if (__builtin_mul_overflow(tensor.shape[0] / type->block, uint64_t{type->bytes}, &row) ||
        __builtin_mul_overflow(row, rows, &tensor.bytes)) {
        return invalid(at, who + " is larger than 2^64 bytes");
    }
    if (tensor.offset % file_.alignment_ != 0) {
        return invalid(at, who + format(" is at offset %llu, not a multiple of the alignment %u",
                                        static_cast<unsigned long long>(tensor.offset), file_.alignment_));
    }
    return {};
}

// Offsets in the file count from the end of the header, rounded up to the alignment.
Status GgufHeader::place_tensors() {
    const uint64_t start = (position_ + file_.alignment_ - 1) / file_.alignment_ * file_.alignment_;
    for (GgufTensor& tensor : file_.tensors_) {
        uint64_t end = 0;
        if (__builtin_add_overflow(tensor.offset, start, &tensor.offset) ||
            __builtin_add_overflow(tensor.offset, tensor.bytes, &end) || end > file_.file_bytes_) {
            return invalid(tensor.offset, "tensor " + printable(tensor.name) +
                                              format(" has %llu bytes and does not lie inside the file of %llu bytes",
                                                     static_cast<unsigned long long>(tensor.bytes),
                                                     static_cast<unsigned long long>(file_.file_bytes_)));
        }
    }
    std::vector<const GgufTensor*> order;
    order.reserve(file_.tensors_.size());
    for (const GgufTensor& tensor : file_.tensors_) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
    // Every writer packs tensors without holes; one means that a size, a type or the number of tensors is damaged.
    uint64_t expected = start;
    for (size_t i = 0; i < order.size(); i++) {
        const GgufTensor& tensor = *order[i];
        if (tensor.offset < expected && i > 0) {
            return invalid(tensor.offset, "tensors " + printable(order[i - 1]->name) + " and " + printable(tensor.name) + " overlap");
        }
        if (tensor.offset != expected) {
            return invalid(expected, format("there are %llu bytes of no tensor before ", static_cast<unsigned long long>(tensor.offset - expected)) +
                                         printable(tensor.name));
        }
        expected = (tensor.offset + tensor.bytes + file_.alignment_ - 1) / file_.alignment_ * file_.alignment_;
    }
    if (!order.empty() && file_.file_bytes_ > expected) {
        return invalid(expected, format("there are %llu bytes after the last tensor",
                                        static_cast<unsigned long long>(file_.file_bytes_ - expected)));
    }
    return {};
}

Status GgufHeader::parse() {
    uint64_t tensors = 0, entries = 0;
    TMOE_RETURN_IF_ERROR(parse_start(tensors, entries));
    file_.metadata_.resize(static_cast<size_t>(entries));
    for (size_t i = 0; i < file_.metadata_.size(); i++) {
        GgufEntry& entry = file_.metadata_[i];
        TMOE_RETURN_IF_ERROR(parse_entry(entry));
        if (!file_.entry_index_.emplace(entry.key, i).second) {
            return invalid(entry.offset, "the metadata key " + printable(entry.key) + " is there twice");
        }
    }
    TMOE_RETURN_IF_ERROR(parse_alignment());
    file_.tensors_.resize(static_cast<size_t>(tensors));
    for (size_t i = 0; i < file_.tensors_.size(); i++) {
        const uint64_t at = position_;
        TMOE_RETURN_IF_ERROR(parse_tensor(file_.tensors_[i]));
        if (!file_.tensor_index_.emplace(file_.tensors_[i].name, i).second) {
            return invalid(at, "the tensor " + printable(file_.tensors_[i].name) + " is there twice");
        }
    }
    return place_tensors();
}

}  // namespace tmoe
