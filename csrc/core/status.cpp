#include "core/status.h"

#include <cstdarg>
#include <cstdio>

namespace tmoe {

std::string format(const char* pattern, ...) {
    char text[1024];
    va_list args;
    va_start(args, pattern);
    const int length = vsnprintf(text, sizeof text, pattern, args);
    va_end(args);
    return length < 0 ? std::string(pattern) : std::string(text);
}

}  // namespace tmoe
