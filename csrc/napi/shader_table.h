// The WGSL files of shaders/ as they were at build time. The table itself is written by scripts/embed-shaders.cjs.
#pragma once
#include <cstddef>

namespace tmoe {

struct ShaderFile {
    const char* name;  ///< without `.wgsl`
    const char* text;
    size_t bytes;
};

struct ShaderTable {
    const ShaderFile* files;
    size_t count;
};

ShaderTable embedded_shaders();

}  // namespace tmoe
