// Reads of what lies at equal distances in a file: rows of a matrix that is stored turned, or beside those of another one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/memory.h"
#include "core/status.h"

namespace tmoe {

/** Elements of `element` bytes: the one of a row and column is at offset + row · row_step + column · column_step of the file. */
struct Grid {
    uint64_t offset;
    uint64_t rows, columns;
    size_t element;
    uint64_t row_step, column_step;
};

/** The bytes from the first element's begin to the last one's end; false where that is beyond 2^64. */
bool grid_bytes(const Grid& grid, uint64_t& bytes);

/** Puts the elements beside each other, row by row. What lies close together is read in one go, at most about 1 MiB, into `scratch`. FILE_READ_FAILED, RESOURCE_MEMORY_EXHAUSTED. */
Status read_grid(int descriptor, const std::string& path, const Grid& grid, uint8_t* to, Buffer& scratch);

}  // namespace tmoe
