// Views of JavaScript arguments: every one is checked for type, range, length, alignment and detachment before native code sees it.
// A failure is VALIDATION_ERROR {argument, expected, actual}; an exception that a getter or proxy threw is passed on (napi/errors.h).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"
#include "napi/setup.h"

namespace tmoe {

/** What a value is, for messages: `NaN`, `-1`, `null`, `Float32Array(3)`, `a string`. */
std::string describe(napi_env env, napi_value value);

Status invalid_argument(napi_env env, const std::string& argument, const std::string& expected, napi_value actual);

bool is_undefined(napi_env env, napi_value value);

/** A text without NUL characters, at most 4 KiB long (a path, a name). */
Status read_text(napi_env env, napi_value value, const std::string& argument, std::string& out);
/** A finite number in [least, most]; infinite limits are allowed and then infinite numbers too. */
Status read_number(napi_env env, napi_value value, const std::string& argument, double least, double most, double& out);
/** An integer in [least, most], both within ±2^53. */
Status read_integer(napi_env env, napi_value value, const std::string& argument, int64_t least, int64_t most, int64_t& out);
Status read_boolean(napi_env env, napi_value value, const std::string& argument, bool& out);
Status require_object(napi_env env, napi_value value, const std::string& argument);
/** An array and its length. */
Status read_array(napi_env env, napi_value value, const std::string& argument, uint32_t& length);
Status read_element(napi_env env, napi_value array, uint32_t index, napi_value& out);
/** An array of texts, 2^20 at most: a sparse array can be longer than memory. */
Status read_texts(napi_env env, napi_value value, const std::string& argument, std::vector<std::string>& out);
/** A function, or null where the value is undefined. */
Status read_optional_function(napi_env env, napi_value value, const std::string& argument, napi_value& out);
/** Property of an object; undefined where it has none. */
Status read_property(napi_env env, napi_value object, const char* key, napi_value& out);

/** Property + read_*; the argument's name in a message is `path.key`. */
Status read_text(napi_env env, napi_value object, const char* path, const char* key, std::string& out);
Status read_number(napi_env env, napi_value object, const char* path, const char* key, double least, double most, double& out);
Status read_integer(napi_env env, napi_value object, const char* path, const char* key, int64_t least, int64_t most, int64_t& out);
Status read_boolean(napi_env env, napi_value object, const char* path, const char* key, bool& out);

/** Caller-owned memory: valid while the JavaScript value is referenced and not transferred. */
struct ArrayView {
    void* data = nullptr;
    size_t length = 0;   ///< elements
    size_t bytes = 0;
    template <class T> T* as() const { return static_cast<T*>(data); }
};

/** A typed array of one type with at least `least` elements. Refused: another type, a detached buffer, memory not aligned to the element. */
Status read_typed_array(napi_env env, napi_value value, const char* argument, napi_typedarray_type type, size_t least, ArrayView& out);

/** For work on a thread: refuses a typed array whose buffer can be resized, because its memory could go meanwhile. */
Status refuse_resizable(napi_env env, napi_value value, const char* argument);

}  // namespace tmoe
