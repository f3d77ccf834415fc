// A lock that the system keeps on an open file, and gives back when the descriptor closes, however the process ends.
#pragma once
#include "core/status.h"

namespace tmoe {

/** Takes the file's lock for this descriptor without waiting; `locked` is false where another one has it. FILE_WRITE_FAILED {errno}. */
Status try_lock(int descriptor, bool& locked);

}  // namespace tmoe
