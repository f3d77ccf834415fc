// The kernels' layout of a matrix ("layout 1"): groups of 16 rows, interleaved, columns walked in order. The last group is
// filled with zero rows. A group of quantised rows is exactly as large as the 16 rows in the file.
//
//   F32, F16, BF16   per column: 16 numbers.
//   Q8_0             per block of 32 columns: 8 × 64 bytes (16 rows × 4 columns, q + 128 as unsigned), then 16 f16 scales.
//   Q4_0             per block of 32: 4 × 64 bytes; of vector g the low nibbles are columns 4g…, the high ones 16 + 4g…;
//                    then 16 f16 scales.
//   IQ4_NL           as Q4_0.
//   Q4_1             per block of 32: the nibbles as Q4_0, then 16 f16 d and 16 f16 m.
//   Q5_0, Q5_1       per block of 32: the nibbles as Q4_0, then 64 bytes of high bits (a word a row, of whose byte c bit g is that of column
//                    4g + c), then 16 f16 d, and for Q5_1 16 f16 m.
//   MXFP4            per block of 32: the nibbles as Q4_0, then 16 bytes of scales.
//   Q4_K             per 256 columns: 8 blocks of 32, each 4 × 64 bytes of nibbles (as Q4_0); then 16 f16 d, 16 f16 dmin, and the 12 bytes of
//                    6-bit scales as three vectors of one word a row. Of these words a, b, c, byte i belongs to blocks i and 4 + i:
//                    scales a & 63 and (c & 15) | (a >> 2) & 48, minimums b & 63 and (c >> 4) | (b >> 2) & 48, four at a time.
//   Q5_K             per 256 columns: 8 blocks of 32, each 4 × 64 bytes of nibbles and 64 of high bits (as Q5_0); then as Q4_K.
//   IQ4_XS           per 256 columns: 8 blocks of 32, each 4 × 64 bytes of nibbles (as Q4_0); then 16 f16 d, 16 words of two bytes and 16 of
//                    four, the file's high and low bits of scales.
//   Q6_K             per 256 columns: 8 blocks of 32, each 4 × 64 bytes of low nibbles (as Q4_0), 2 × 64 bytes of high bits
//                    (vector h, bits 2f and 2f+1: column group 4h + f), 2 × 16 int8 sub-scales; then 16 f16 scales.
#pragma once
#include <cstddef>
#include <cstdint>

#include "quant/types.h"

namespace tmoe {

/** Bytes of one packed group of 16 rows. */
size_t packed_group_bytes(DType type, size_t columns);
/** Bytes of a packed matrix. */
size_t packed_bytes(DType type, size_t rows, size_t columns);

/** Packs rows (1 to 16, in the file's layout, one after another) into the group at `to`. Columns: a multiple of the block. */
void pack_group(DType type, const uint8_t* from, size_t rows, size_t columns, uint8_t* to);

/** Gives one row of a packed matrix back, in the file's layout. Types that encode_row can write (quant/blocks.h). */
void unpack_row(DType type, const uint8_t* packed, size_t row, size_t columns, uint8_t* to);

/** pack_group for any number of rows, group after group, from memory that need not be in the caches. */
void pack_rows(DType type, const uint8_t* from, size_t rows, size_t columns, uint8_t* to);

}  // namespace tmoe
