#pragma once
#include <string>

#include "core/status.h"

namespace tmoe {

/**
 * What the system said of a file, as `code` {path, errno}; RESOURCE_FILES_EXHAUSTED {path, errno, required, available, current, limit} where the
 * process (EMFILE) or the system (ENFILE) has no descriptor left. `what` says what was being done, or nothing.
 */
Status file_failed(StatusCode code, const std::string& path, const char* what, int error);

/** The same of a read: FILE_READ_FAILED. */
inline Status read_failed(const std::string& path, int error) { return file_failed(StatusCode::FILE_READ_FAILED, path, nullptr, error); }

/** Files that this process may have open at a time; 0 where nothing limits them. */
double open_file_limit();

}  // namespace tmoe
