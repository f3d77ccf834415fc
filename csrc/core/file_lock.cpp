#include "core/file_lock.h"

#include <cerrno>
#include <sys/file.h>
#include <system_error>

namespace tmoe {

Status try_lock(int descriptor, bool& locked) {
    int result;
    do result = flock(descriptor, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    locked = result == 0;
    if (locked || errno == EWOULDBLOCK) return {};
    const int error = errno;
    return Status(StatusCode::FILE_WRITE_FAILED, "the file cannot be locked: " + std::generic_category().message(error)).with("errno", error);
}

}  // namespace tmoe
