#include "core/file_errors.h"

#include <cerrno>
#include <sys/resource.h>
#include <system_error>

namespace tmoe {

Status file_failed(StatusCode code, const std::string& path, const char* what, int error) {
    const std::string message = path + ": " + (what ? std::string(what) + ": " : "") + std::generic_category().message(error);
    const bool exhausted = error == EMFILE || error == ENFILE;
    Status status = Status(exhausted ? StatusCode::RESOURCE_FILES_EXHAUSTED : code, message).with("path", path).with("errno", error);
    if (!exhausted) return status;
    Status told = std::move(status).with("required", 1).with("available", 0);
    // What the whole system may have open is not known here.
    const double limit = error == EMFILE ? open_file_limit() : 0;
    if (limit == 0) return told;
    return std::move(told).with("current", limit).with("limit", limit);
}

double open_file_limit() {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return 0;
    return static_cast<double>(limit.rlim_cur);
}

}  // namespace tmoe
