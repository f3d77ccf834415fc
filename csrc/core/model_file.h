// A file of weights: opened so that nothing but a regular file gets through, and read by pread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/status.h"

namespace tmoe {

/**
 * Opens a regular file for reading and tells its size; counters().open_files counts the descriptor until close_model_file. `kind` is what the file
 * should be, for messages. MODEL_NOT_FOUND, FILE_READ_FAILED {errno}, RESOURCE_FILES_EXHAUSTED, MODEL_FILE_INVALID for what is no regular file.
 */
Status open_model_file(const std::string& path, const char* kind, int& descriptor, uint64_t& bytes);

/** Nothing happens where the descriptor is below 0. */
void close_model_file(int descriptor);

/** Reads all of a range. Thread-safe. FILE_READ_FAILED {path, errno}, or {path, offset} where the file ends before. */
Status read_model_file(int descriptor, const std::string& path, uint64_t offset, void* to, size_t bytes);

}  // namespace tmoe
