#include "core/cpu_model.h"

#include <cstdio>
#include <cstring>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace tmoe {

std::string cpu_model() {
#if defined(__linux__)
    if (FILE* file = fopen("/proc/cpuinfo", "re")) {
        char line[512];
        std::string name;
        while (name.empty() && fgets(line, sizeof line, file)) {
            const char* colon = strchr(line, ':');
            if (strncmp(line, "model name", 10) != 0 || !colon) continue;
            name = colon + 1;
            name.erase(0, name.find_first_not_of(" \t"));
            name.erase(name.find_last_not_of(" \t\n") + 1);
        }
        fclose(file);
        if (!name.empty()) return name;
    }
#elif defined(__APPLE__)
    char name[256];
    size_t size = sizeof name;
    if (sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0) return name;
#endif
#if defined(__x86_64__) || defined(_M_X64)
    return "x86-64";
#elif defined(__aarch64__) || defined(_M_ARM64)
    return "AArch64";
#else
    return "unknown";
#endif
}

}  // namespace tmoe
