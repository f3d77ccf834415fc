// One expert as a blob: its gate, up and down matrices in the kernels' layout (quant/repack.h), one after another. A tiered checkpoint
// keeps blobs like this on disk and the expert store keeps them in memory, so that a cold expert is one aligned read and no repacking.
#pragma once
#include <cstddef>
#include <cstdint>

#include "quant/types.h"

namespace tmoe {

/** Names the layout of quant/repack.h; it changes when any byte of a packed matrix would. A checkpoint states it in its manifest. */
inline constexpr char kExpertLayoutId[] = "rows16.1";

/** Blobs begin and end at multiples of this, in a file and in memory: what O_DIRECT asks for. */
inline constexpr size_t kBlobAlignment = 4096;

/** One matrix of an expert inside its blob. */
struct ExpertPart {
    DType type = DType::F32;
    size_t rows = 0, columns = 0;
    size_t offset = 0;   ///< from the blob's begin, a multiple of 64
    size_t bytes = 0;    ///< packed_bytes(type, rows, columns)
};

/** What the experts of one layer look like. All experts of a layer are alike; layers may differ (mixed weight types). */
struct ExpertLayout {
    ExpertPart gate, up, down;
    size_t bytes = 0;    ///< of a blob: a multiple of kBlobAlignment; what lies between and behind the parts is zero
};

/** Lays gate [hidden × width], up [hidden × width] and down [width × hidden] out. Columns are multiples of the types' blocks. */
ExpertLayout expert_layout(DType gate, DType up, DType down, size_t width, size_t hidden);

}  // namespace tmoe
