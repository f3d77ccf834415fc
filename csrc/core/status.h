// The one status type of the addon: kernels, readers and the executor return it; napi/errors.cpp turns it into a typed
// JavaScript error. The codes below are checked equal to the native entries of lib/errors/catalog.ts by a test.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tmoe {

#define TMOE_STATUS_CODES(X)      \
    X(OK)                         \
    X(VALIDATION_ERROR)           \
    X(ISA_UNSUPPORTED)            \
    X(MODEL_NOT_FOUND)            \
    X(MODEL_FILE_INVALID)         \
    X(MODEL_VERSION_MISMATCH)     \
    X(MODEL_CORRUPTED)            \
    X(MODEL_NOT_LOADED)           \
    X(TENSOR_TYPE_UNSUPPORTED)    \
    X(TENSOR_MISSING)             \
    X(TENSOR_SHAPE_MISMATCH)      \
    X(CONTEXT_LENGTH_EXCEEDED)    \
    X(RESOURCE_MEMORY_EXHAUSTED)  \
    X(RESOURCE_BUDGET_TOO_SMALL)  \
    X(FILE_READ_FAILED)           \
    X(FILE_WRITE_FAILED)          \
    X(RESOURCE_FILES_EXHAUSTED)   \
    X(EXPERT_CORRUPTED)           \
    X(EXPERT_UNAVAILABLE)         \
    X(ROUTING_INVALID_EXPERT)     \
    X(ROUTING_TOO_FEW_EXPERTS)    \
    X(RUNTIME_NAN_DETECTED)       \
    X(RUNTIME_MEMORY_CORRUPTION)  \
    X(RUNTIME_INVARIANT_VIOLATED) \
    X(CUDA_DEVICE_FAILED)         \
    X(GPU_VRAM_EXHAUSTED)         \
    X(CANCELLED)

enum class StatusCode : int32_t {
#define TMOE_ENUM(name) name,
    TMOE_STATUS_CODES(TMOE_ENUM)
#undef TMOE_ENUM
};

inline const char* status_code_name(StatusCode code) {
    static const char* const names[] = {
#define TMOE_NAME(name) #name,
        TMOE_STATUS_CODES(TMOE_NAME)
#undef TMOE_NAME
    };
    return names[static_cast<int32_t>(code)];
}

/** One entry of an error's details: a key in camelCase with a number or a text. */
struct Detail {
    std::string key;
    bool is_text;
    double number;
    std::string text;
};

class [[nodiscard]] Status {
  public:
    Status() = default;
    Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

    bool ok() const { return code_ == StatusCode::OK; }
    StatusCode code() const { return code_; }
    const std::string& message() const { return message_; }
    const std::vector<Detail>& details() const { return details_; }

    Status&& with(std::string key, double number) && {
        details_.push_back({std::move(key), false, number, {}});
        return std::move(*this);
    }
    Status&& with(std::string key, std::string text) && {
        details_.push_back({std::move(key), true, 0, std::move(text)});
        return std::move(*this);
    }

  private:
    StatusCode code_ = StatusCode::OK;
    std::string message_;
    std::vector<Detail> details_;
};

/** printf-style text, for the message of a status. */
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
std::string format(const char* pattern, ...);

/** Returns from the enclosing function when the expression's status is not OK. */
#define TMOE_RETURN_IF_ERROR(expression)                       \
    do {                                                       \
        ::tmoe::Status tmoe_status_ = (expression);            \
        if (!tmoe_status_.ok()) return tmoe_status_;           \
    } while (0)

}  // namespace tmoe
