// Reading one tensor of a GGUF file into the layout that its role has in memory, on all threads.
#pragma once
#include <atomic>
#include <vector>

#include "core/gguf.h"
#include "core/model.h"

namespace tmoe {

/** Describes a plan tensor by what the file has; no byte of it is read. TENSOR_MISSING, TENSOR_SHAPE_MISMATCH, TENSOR_TYPE_UNSUPPORTED. */
Status describe_tensor(const GgufFile& file, const PlanTensor& wanted, Weight& out);

/** Bytes that a tensor takes once loaded. */
uint64_t loaded_bytes(const Weight& w);

Status load_cancelled();

/** Part of a tensor: rows of one expert's matrix, or of the only one. */
struct TensorPiece {
    size_t expert = 0;
    size_t first_row = 0;   ///< of a packed matrix: a multiple of kLanes
    size_t rows = 0;
};

/** Bytes of a piece once loaded; a packed matrix is made of whole groups of kLanes rows. */
uint64_t piece_bytes(const Weight& w, const TensorPiece& piece);

/** Reads tensors one after another, each with pread on all threads of the backend. CANCELLED within a millisecond or so. */
class TensorLoader {
  public:
    TensorLoader(Backend& backend, const GgufFile& file, const std::atomic<bool>* cancel)
        : backend_(backend), file_(file), cancel_(cancel), scratch_(backend.pool.threads()) {}

    Status load(const GgufTensor& tensor, Weight& w);
    /** Reads a piece that lies inside the tensor into memory of piece_bytes. Of vectors, routers and their biases, which are read whole, sets w.exponent. */
    Status load_piece(const GgufTensor& tensor, Weight& w, const TensorPiece& piece, uint8_t* to);

  private:
    template <class Fn> Status parallel(size_t count, Fn fn);
    Status load_packed(const GgufTensor& tensor, Weight& w);
    Status pack_groups(const GgufTensor& tensor, const Weight& w, size_t expert, size_t first, size_t last, size_t worker, uint8_t* to);
    Status read_transposed(const GgufTensor& tensor, const Weight& w, size_t head, size_t first_row, size_t rows, float* to);
    size_t groups_at_a_time(const Weight& w) const;
    Status load_bytes(const GgufTensor& tensor, uint64_t from, size_t bytes, uint8_t* to);
    Status load_floats(const GgufTensor& tensor, Weight& w);

    Backend& backend_;
    const GgufFile& file_;
    const std::atomic<bool>* cancel_;
    std::vector<Buffer> scratch_;   ///< per thread
};

}  // namespace tmoe
