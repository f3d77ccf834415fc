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

/** Reads tensors one after another, each with pread on all threads of the backend. CANCELLED within a millisecond or so. */
class TensorLoader {
  public:
    TensorLoader(Backend& backend, const GgufFile& file, const std::atomic<bool>* cancel)
        : backend_(backend), file_(file), cancel_(cancel), scratch_(backend.pool.threads()) {}

    Status load(const GgufTensor& tensor, Weight& w);

  private:
    template <class Fn> Status parallel(size_t count, Fn fn);
    Status load_packed(const GgufTensor& tensor, Weight& w);
    Status load_embedding(const GgufTensor& tensor, Weight& w);
    Status load_floats(const GgufTensor& tensor, Weight& w, bool router);

    Backend& backend_;
    const GgufFile& file_;
    const std::atomic<bool>* cancel_;
    std::vector<Buffer> scratch_;   ///< per thread
};

}  // namespace tmoe
