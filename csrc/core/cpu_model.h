// The processor's name, for reports.
#pragma once
#include <string>

namespace tmoe {

/** As the system gives it, or the architecture's name where it gives none. */
std::string cpu_model();

}  // namespace tmoe
