#include "napi/args.h"

#include <cmath>

#include "napi/errors.h"

namespace tmoe {

namespace {

constexpr size_t kLongestText = 4096;
constexpr uint32_t kMostTexts = 1u << 20;

struct ElementType {
    const char* name;
    size_t bytes;
};

// In the order of napi_typedarray_type.
constexpr ElementType kElements[] = {
    {"Int8Array", 1},  {"Uint8Array", 1},   {"Uint8ClampedArray", 1}, {"Int16Array", 2},    {"Uint16Array", 2},    {"Int32Array", 4},
    {"Uint32Array", 4}, {"Float32Array", 4}, {"Float64Array", 8},      {"BigInt64Array", 8}, {"BigUint64Array", 8},
};

ElementType element_of(napi_typedarray_type type) {
    const auto index = static_cast<size_t>(type);
    return index < sizeof kElements / sizeof kElements[0] ? kElements[index] : ElementType{"a typed array", 1};
}

std::string describe_number(double number) {
    return std::isnan(number) ? "NaN" : format("%.17g", number);
}

std::string describe_object(napi_env env, napi_value value) {
    bool yes = false;
    if (napi_is_array(env, value, &yes) == napi_ok && yes) return "an array";
    if (napi_is_typedarray(env, value, &yes) == napi_ok && yes) {
        napi_typedarray_type type = napi_uint8_array;
        size_t length = 0;
        napi_get_typedarray_info(env, value, &type, &length, nullptr, nullptr, nullptr);
        return format("%s(%zu)", element_of(type).name, length);
    }
    if (napi_is_arraybuffer(env, value, &yes) == napi_ok && yes) return "an ArrayBuffer";
    return "an object";
}

Status refuse_detached(napi_env env, napi_value value, const char* argument) {
    napi_value buffer = nullptr;
    bool detached = false;
    if (napi_get_typedarray_info(env, value, nullptr, nullptr, nullptr, &buffer, nullptr) != napi_ok ||
        napi_is_detached_arraybuffer(env, buffer, &detached) != napi_ok || !detached) {
        return {};
    }
    return Status(StatusCode::VALIDATION_ERROR, std::string(argument) + ": its buffer is detached").with("argument", argument);
}

std::string range(double least, double most) { return format("from %.15g to %.15g", least, most); }

std::string join(const char* path, const char* key) { return std::string(path) + "." + key; }

}  // namespace

std::string describe(napi_env env, napi_value value) {
    napi_valuetype type = napi_undefined;
    if (!value || napi_typeof(env, value, &type) != napi_ok) return "nothing";
    switch (type) {
        case napi_undefined:
            return "undefined";
        case napi_null:
            return "null";
        case napi_boolean:
            return "a boolean";
        case napi_number: {
            double number = 0;
            napi_get_value_double(env, value, &number);
            return describe_number(number);
        }
        case napi_string:
            return "a string";
        case napi_symbol:
            return "a symbol";
        case napi_function:
            return "a function";
        case napi_bigint:
            return "a bigint";
        default:
            return describe_object(env, value);
    }
}

Status invalid_argument(napi_env env, const std::string& argument, const std::string& expected, napi_value actual) {
    const std::string found = describe(env, actual);
    return Status(StatusCode::VALIDATION_ERROR, argument + ": expected " + expected + ", got " + found)
        .with("argument", argument)
        .with("expected", expected)
        .with("actual", found);
}

bool is_undefined(napi_env env, napi_value value) {
    napi_valuetype type = napi_undefined;
    return !value || napi_typeof(env, value, &type) != napi_ok || type == napi_undefined;
}

Status read_text(napi_env env, napi_value value, const std::string& argument, std::string& out) {
    char shorter[64];  // names and options: one call instead of two
    size_t length = 0;
    if (napi_get_value_string_utf8(env, value, shorter, sizeof shorter, &length) != napi_ok) {
        return invalid_argument(env, argument, "a string", value);
    }
    if (length + 4 < sizeof shorter) {  // a cut text can end up to three bytes early
        out.assign(shorter, length);
    } else {
        if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) return exception_pending();
        if (length > kLongestText) return invalid_argument(env, argument, format("at most %zu bytes", kLongestText), value);
        out.resize(length + 1);
        if (napi_get_value_string_utf8(env, value, &out[0], length + 1, &length) != napi_ok) return exception_pending();
        out.resize(length);
    }
    if (out.find('\0') != std::string::npos) return invalid_argument(env, argument, "a string without NUL characters", value);
    return {};
}

Status read_number(napi_env env, napi_value value, const std::string& argument, double least, double most, double& out) {
    if (napi_get_value_double(env, value, &out) != napi_ok || !(out >= least && out <= most)) {
        return invalid_argument(env, argument, "a number " + range(least, most), value);
    }
    return {};
}

Status read_integer(napi_env env, napi_value value, const std::string& argument, int64_t least, int64_t most, int64_t& out) {
    double number = 0;
    const auto low = static_cast<double>(least), high = static_cast<double>(most);
    if (napi_get_value_double(env, value, &number) != napi_ok || !(number >= low && number <= high) || number != std::floor(number)) {
        return invalid_argument(env, argument, "an integer " + range(low, high), value);
    }
    out = static_cast<int64_t>(number);
    return {};
}

Status read_boolean(napi_env env, napi_value value, const std::string& argument, bool& out) {
    return napi_get_value_bool(env, value, &out) == napi_ok ? Status() : invalid_argument(env, argument, "a boolean", value);
}

Status require_object(napi_env env, napi_value value, const std::string& argument) {
    napi_valuetype type = napi_undefined;
    if (value && napi_typeof(env, value, &type) == napi_ok && type == napi_object) return {};
    return invalid_argument(env, argument, "an object", value);
}

Status read_array(napi_env env, napi_value value, const std::string& argument, uint32_t& length) {
    bool yes = false;
    if (!value || napi_is_array(env, value, &yes) != napi_ok || !yes) return invalid_argument(env, argument, "an array", value);
    return napi_get_array_length(env, value, &length) == napi_ok ? Status() : exception_pending();
}

Status read_element(napi_env env, napi_value array, uint32_t index, napi_value& out) {
    return napi_get_element(env, array, index, &out) == napi_ok ? Status() : exception_pending();
}

Status read_texts(napi_env env, napi_value value, const std::string& argument, std::vector<std::string>& out) {
    uint32_t length = 0;
    TMOE_RETURN_IF_ERROR(read_array(env, value, argument, length));
    if (length > kMostTexts) return invalid_argument(env, argument, format("at most %u texts", kMostTexts), value);
    out.resize(length);
    for (uint32_t i = 0; i < length; i++) {
        napi_value item = nullptr;
        TMOE_RETURN_IF_ERROR(read_element(env, value, i, item));
        TMOE_RETURN_IF_ERROR(read_text(env, item, argument + "[" + std::to_string(i) + "]", out[i]));
    }
    return {};
}

Status read_optional_function(napi_env env, napi_value value, const std::string& argument, napi_value& out) {
    napi_valuetype type = napi_undefined;
    out = nullptr;
    if (!value || napi_typeof(env, value, &type) != napi_ok || type == napi_undefined) return {};
    if (type != napi_function) return invalid_argument(env, argument, "a function or undefined", value);
    out = value;
    return {};
}

Status read_property(napi_env env, napi_value object, const char* key, napi_value& out) {
    return napi_get_named_property(env, object, key, &out) == napi_ok ? Status() : exception_pending();
}

Status read_text(napi_env env, napi_value object, const char* path, const char* key, std::string& out) {
    napi_value value = nullptr;
    TMOE_RETURN_IF_ERROR(read_property(env, object, key, value));
    return read_text(env, value, join(path, key), out);
}

Status read_number(napi_env env, napi_value object, const char* path, const char* key, double least, double most, double& out) {
    napi_value value = nullptr;
    TMOE_RETURN_IF_ERROR(read_property(env, object, key, value));
    return read_number(env, value, join(path, key), least, most, out);
}

Status read_integer(napi_env env, napi_value object, const char* path, const char* key, int64_t least, int64_t most, int64_t& out) {
    napi_value value = nullptr;
    TMOE_RETURN_IF_ERROR(read_property(env, object, key, value));
    return read_integer(env, value, join(path, key), least, most, out);
}

Status read_boolean(napi_env env, napi_value object, const char* path, const char* key, bool& out) {
    napi_value value = nullptr;
    TMOE_RETURN_IF_ERROR(read_property(env, object, key, value));
    return read_boolean(env, value, join(path, key), out);
}

Status read_typed_array(napi_env env, napi_value value, const char* argument, napi_typedarray_type type, size_t least, ArrayView& out) {
    const ElementType element = element_of(type);
    napi_typedarray_type actual = napi_uint8_array;
    if (!value || napi_get_typedarray_info(env, value, &actual, &out.length, &out.data, nullptr, nullptr) != napi_ok || actual != type) {
        return invalid_argument(env, argument, element.name, value);
    }
    if (out.length == 0) TMOE_RETURN_IF_ERROR(refuse_detached(env, value, argument));  // a detached array has no elements
    if (out.length < least) return invalid_argument(env, argument, format("a %s of at least %zu elements", element.name, least), value);
    if (reinterpret_cast<uintptr_t>(out.data) % element.bytes != 0) {
        return Status(StatusCode::VALIDATION_ERROR, std::string(argument) + format(": its memory is not aligned to %zu bytes", element.bytes))
            .with("argument", argument);
    }
    out.bytes = out.length * element.bytes;
    return {};
}

Status refuse_resizable(napi_env env, napi_value value, const char* argument) {
    napi_value buffer = nullptr, flag = nullptr;
    bool resizable = false;
    if (napi_get_typedarray_info(env, value, nullptr, nullptr, nullptr, &buffer, nullptr) != napi_ok) return {};
    // A shared buffer only grows, in place; it has no property of this name.
    TMOE_RETURN_IF_ERROR(read_property(env, buffer, "resizable", flag));
    if (napi_get_value_bool(env, flag, &resizable) != napi_ok || !resizable) return {};
    return Status(StatusCode::VALIDATION_ERROR, std::string(argument) + ": its buffer can be resized, which asynchronous work does not allow")
        .with("argument", argument);
}

}  // namespace tmoe
