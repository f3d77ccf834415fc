#include "core/grid_read.h"

#include <algorithm>
#include <cstring>

#include "core/model_file.h"

namespace tmoe {

namespace {

constexpr size_t kReadBytes = size_t{1} << 20;
constexpr uint64_t kMostApart = 4;  // lines further apart than so many of their lengths are read one by one

// A line is what lies closest together: a row, or a column of what is stored turned.
struct Lines {
    uint64_t count, step, each, each_step, bytes;
};

Lines lines_of(const Grid& g) {
    const bool turned = g.column_step > g.row_step;
    const Lines lines = turned ? Lines{g.columns, g.column_step, g.rows, g.row_step, 0} : Lines{g.rows, g.row_step, g.columns, g.column_step, 0};
    return {lines.count, lines.step, lines.each, lines.each_step, (lines.each - 1) * lines.each_step + g.element};
}

/** Elements of `count` lines at `from` to their places; `Element` is their type, or one byte where they are `element` bytes long. */
template <class Element>
void place(const Lines& lines, size_t count, const uint8_t* from, uint8_t* to, uint64_t to_line, uint64_t to_each, size_t element) {
    const size_t bytes = sizeof(Element) > 1 ? sizeof(Element) : element;
    for (uint64_t i = 0; i < lines.each; i++)
        for (size_t line = 0; line < count; line++) memcpy(to + line * to_line + i * to_each, from + line * lines.step + i * lines.each_step, bytes);
}

}  // namespace

bool grid_bytes(const Grid& g, uint64_t& bytes) {
    uint64_t rows = 0, columns = 0;
    return !__builtin_mul_overflow(g.rows - 1, g.row_step, &rows) && !__builtin_mul_overflow(g.columns - 1, g.column_step, &columns) &&
           !__builtin_add_overflow(rows, columns, &bytes) && !__builtin_add_overflow(bytes, uint64_t{g.element}, &bytes);
}

Status read_grid(int descriptor, const std::string& path, const Grid& g, uint8_t* to, Buffer& scratch) {
    const Lines lines = lines_of(g);
    const uint64_t row = g.columns * g.element, column = g.element;
    const bool turned = g.column_step > g.row_step;
    const uint64_t to_line = turned ? column : row, to_each = turned ? row : column;
    const uint64_t together = lines.bytes < kReadBytes ? (kReadBytes - lines.bytes) / lines.step + 1 : 1;
    const auto at_once = static_cast<size_t>(lines.step > kMostApart * lines.bytes ? 1 : std::min(lines.count, together));
    TMOE_RETURN_IF_ERROR(scratch.reserve(static_cast<size_t>((at_once - 1) * lines.step + lines.bytes)));
    for (uint64_t line = 0; line < lines.count; line += at_once) {
        const auto count = static_cast<size_t>(std::min<uint64_t>(at_once, lines.count - line));
        TMOE_RETURN_IF_ERROR(read_model_file(descriptor, path, g.offset + line * lines.step, scratch.data(), static_cast<size_t>((count - 1) * lines.step + lines.bytes)));
        uint8_t* out = to + line * to_line;
        if (g.element == 2) place<uint16_t>(lines, count, scratch.data(), out, to_line, to_each, 2);
        else if (g.element == 4) place<uint32_t>(lines, count, scratch.data(), out, to_line, to_each, 4);
        else place<uint8_t>(lines, count, scratch.data(), out, to_line, to_each, g.element);
    }
    return {};
}

}  // namespace tmoe
