// Makes one specialised shader of a WGSL file and of the pieces that it includes. A directive has a line of its own:
//   #include "piece.wgsl"     the piece's text, the first time that it is asked for
//   #if NAME · #if !NAME · #if NAME == value · #if NAME != value · #elif … · #else · #endif
// and $NAME in any other line is replaced by the define's value. A define is true unless its value is empty, `0` or `false`.
#pragma once
#include <map>
#include <string>

#include "core/status.h"
#include "shaders/shader_table.h"

namespace tmoe {

using Defines = std::map<std::string, std::string>;

/** VALIDATION_ERROR {shader, line}: an unknown shader or piece, a define that is missing, an #if that is not closed, an unknown directive. */
Status specialise(const ShaderTable& table, const std::string& name, const Defines& defines, std::string& out);

}  // namespace tmoe
