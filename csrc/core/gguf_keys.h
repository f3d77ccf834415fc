// Value types of the metadata keys that a model is built from, as the GGUF specification and its writers have them.
#pragma once
#include "core/gguf.h"

namespace tmoe {

/**
 * What is wrong with the type of a known key (`an i32 where the format has a u32`), or empty where it is right or the key is unknown.
 * A value of another type with the same size would otherwise be read as nonsense without anyone noticing.
 */
std::string wrong_type(const GgufEntry& entry);

}  // namespace tmoe
