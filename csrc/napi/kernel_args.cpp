#include "napi/kernel_args.h"

#include <cstring>
#include <iterator>

#include "napi/errors.h"

namespace tmoe {

napi_value KernelArgs::next() {
    napi_value value = nullptr;
    if (status_.ok() && napi_get_element(env_, list_, index_, &value) != napi_ok) status_ = exception_pending();
    index_++;
    return value;
}

bool KernelArgs::next_is_undefined() {
    if (!status_.ok()) return true;
    if (is_undefined(env_, next())) return true;
    index_--;
    return false;
}

void KernelArgs::refuse(const std::string& message) {
    if (status_.ok()) status_ = Status(StatusCode::VALIDATION_ERROR, message);
}

size_t KernelArgs::size(const char* name, int64_t least, int64_t most) {
    napi_value value = next();
    int64_t out = 0;
    if (status_.ok()) status_ = read_integer(env_, value, name, least, most, out);
    return status_.ok() ? static_cast<size_t>(out) : 0;
}

double KernelArgs::number(const char* name, double least, double most) {
    napi_value value = next();
    double out = 0;
    if (status_.ok()) status_ = read_number(env_, value, name, least, most, out);
    return status_.ok() ? out : 0;
}

bool KernelArgs::flag(const char* name) {
    napi_value value = next();
    bool out = false;
    if (status_.ok()) status_ = read_boolean(env_, value, name, out);
    return out;
}

DType KernelArgs::dtype(const char* name) {
    const char* names[std::size(kDTypes)];
    for (size_t i = 0; i < std::size(kDTypes); i++) names[i] = kDTypes[i].name;
    return kDTypes[choose(name, names, std::size(kDTypes))].type;
}

size_t KernelArgs::choose(const char* name, const char* const* names, size_t count) {
    napi_value value = next();
    std::string text, allowed;
    if (status_.ok()) status_ = read_text(env_, value, name, text);
    if (!status_.ok()) return 0;
    for (size_t i = 0; i < count; i++) {
        if (text == names[i]) return i;
        allowed += (i == 0 ? "" : ", ") + std::string(names[i]);
    }
    status_ = Status(StatusCode::VALIDATION_ERROR, std::string(name) + ": expected one of " + allowed + ", got " + text)
                  .with("argument", name)
                  .with("expected", allowed)
                  .with("actual", text);
    return 0;
}

size_t KernelArgs::parts(const char* name, size_t length, size_t each) {
    if (!status_.ok() || each == 0) return 0;
    if (length % each != 0) refuse(std::string(name) + format(": %zu elements, not a multiple of %zu", length, each));
    return length / each;
}

void KernelArgs::require(const char* name, size_t length, size_t least) {
    if (!status_.ok() || length >= least) return;
    status_ = Status(StatusCode::VALIDATION_ERROR, std::string(name) + format(": %zu elements where at least %zu are needed", length, least))
                  .with("argument", name)
                  .with("expected", static_cast<double>(least))
                  .with("actual", static_cast<double>(length));
}

ArrayView KernelArgs::view(const char* name, napi_typedarray_type type, size_t least) {
    napi_value value = next();
    ArrayView out;
    if (status_.ok()) status_ = read_typed_array(env_, value, name, type, least, out);
    if (status_.ok() && kind_ != CallKind::Once) {
        status_ = refuse_resizable(env_, value, name);
        keep.push_back(value);
    }
    last_length_ = out.length;
    if (!status_.ok()) return {};
    remember(out);
    if (kind_ == CallKind::Prepared) arrays.push_back({index_ - 1, out.data, out.length, out.bytes, nullptr});
    return out;
}

void KernelArgs::remember(const ArrayView& array) {
    const auto from = reinterpret_cast<uintptr_t>(array.data);
    if (range_count_ < kMostRanges) ranges_[range_count_++] = {from, from + array.bytes, nullptr};
}

Status KernelArgs::status() const {
    for (size_t i = 0; status_.ok() && i < range_count_; i++) {
        for (size_t j = 0; ranges_[i].alone && j < range_count_; j++) {
            const Range &a = ranges_[i], &b = ranges_[j];
            if (i == j || a.from >= b.to || b.from >= a.to) continue;
            return Status(StatusCode::VALIDATION_ERROR, std::string(a.alone) + ": it lies over another array of the call").with("argument", a.alone);
        }
    }
    return status_;
}

float* KernelArgs::floats(const char* name, size_t least) { return array<float>(name, napi_float32_array, least); }

uint8_t* KernelArgs::aligned_bytes(const char* name, size_t least) {
    uint8_t* data = bytes(name, least);
    if (reinterpret_cast<uintptr_t>(data) % 4 != 0) refuse(std::string(name) + ": its memory is not aligned to 4 bytes");
    return data;
}

std::vector<float> KernelArgs::optional_floats(const char* name, size_t count) {
    if (next_is_undefined()) return {};
    const float* from = floats(name, count);
    if (ok() && last_length_ != count) refuse(std::string(name) + format(": expected %zu elements, got %zu", count, last_length_));
    return ok() ? std::vector<float>(from, from + count) : std::vector<float>();
}

std::vector<int32_t> KernelArgs::optional_tokens(const char* name) {
    std::vector<int32_t> out;
    if (next_is_undefined()) return out;
    const ArrayView tokens = view(name, napi_int32_array, 0);
    if (tokens.length > 0) out.assign(tokens.as<int32_t>(), tokens.as<int32_t>() + tokens.length);
    return out;
}

std::vector<uint32_t> KernelArgs::optional_words(const char* name) {
    std::vector<uint32_t> out;
    if (next_is_undefined()) return out;
    const ArrayView words = view(name, napi_uint32_array, 1);
    if (words.length > 0) out.assign(words.as<uint32_t>(), words.as<uint32_t>() + words.length);
    return out;
}

const void* KernelArgs::copy_of(const char* name, napi_typedarray_type type, size_t least, bool anew) {
    napi_value value = next();
    ArrayView given;
    if (status_.ok()) status_ = read_typed_array(env_, value, name, type, least, given);
    if (status_.ok() && kind_ == CallKind::Prepared) status_ = refuse_resizable(env_, value, name);
    last_length_ = given.length;
    if (!status_.ok() || given.bytes == 0) return nullptr;
    remember(given);
    Buffer copy;
    status_ = copy.allocate(given.bytes);
    if (!status_.ok()) return nullptr;
    memcpy(copy.data(), given.data, given.bytes);
    if (!copies) copies = std::make_shared<std::vector<Buffer>>();
    copies->push_back(std::move(copy));
    if (kind_ == CallKind::Prepared && anew) arrays.push_back({index_ - 1, given.data, given.length, given.bytes, copies->back().data()});
    return copies->back().data();
}

}  // namespace tmoe
