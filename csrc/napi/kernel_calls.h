// The calls behind lib/kernels.ts. lib/kernels/calls.ts is the contract: the operations and the order of their arguments. Sizes come from
// the arrays themselves wherever they can; everything else is checked here, so that a kernel only sees arguments that fit.
#pragma once
#include <functional>

#include "core/kernel_device.h"
#include "core/memory.h"
#include "cpu/attention.h"
#include "cpu/expert_matmul.h"
#include "napi/call.h"
#include "napi/kernel_args.h"

namespace tmoe {

/** What kernels need besides their arguments: memory, reused from call to call, and the device that computes where the CPU does not. */
struct KernelScratch {
    KernelDevice* device = nullptr;
    ExpertScratch experts;
    AttentionScratch attention;
    ActivationBuffer activations;
    Buffer first, second, third;
};

/** A call whose arguments are checked: `run` on any thread, then `value` (empty: undefined) on the JavaScript thread. */
struct KernelWork {
    std::function<Status(const Context&, KernelScratch&)> run;
    std::function<Status(napi_env, napi_value&)> value;
};

/** Reads an operation's arguments; `naive` means its naive twin, whose weights are in the file's layout. */
using ReadKernel = KernelWork (*)(KernelArgs& in, bool naive);

struct KernelEntry {
    const char* op;
    ReadKernel read;
};

/** Tables of kernel_calls_moe.cpp and kernel_calls_dense.cpp. */
size_t moe_kernels(const KernelEntry*& out);
size_t dense_kernels(const KernelEntry*& out);

/** Most elements of one dimension; products of a few stay far below 2^64. */
inline constexpr int64_t kMostSize = 1 << 24;
inline constexpr int64_t kMostChosen = 256;

/** A matrix argument: type, rows, columns, data; `count` of them one after another. */
struct MatrixArg {
    DType type;
    size_t rows, columns;
    const uint8_t* data;
    std::vector<float> bias;   ///< of each expert's rows; empty = none

    const float* biases() const { return bias.empty() ? nullptr : bias.data(); }
    RawMatrix raw() const { return {type, rows, columns, data, biases()}; }
    ExpertStack packed() const;
};
MatrixArg read_matrix(KernelArgs& in, const char* name, size_t count, bool packed);

/** RUNTIME_NAN_DETECTED {token} for the first row that is flagged. */
class RowFlags {
  public:
    Status allocate(size_t rows);
    NonFinite flags() const { return {flags_.get()}; }
    Status check(const char* op) const;

  private:
    std::unique_ptr<std::atomic<uint8_t>[]> flags_;
    size_t rows_ = 0;
};

/** RUNTIME_NAN_DETECTED {token} where a row of x has a value that is not finite. */
Status check_finite(const char* op, const float* x, size_t rows, size_t width);

}  // namespace tmoe
