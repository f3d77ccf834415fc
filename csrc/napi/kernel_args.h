// The positional arguments of one kernel call, read in order. The first failure is kept and every later read returns an empty value,
// so that a binding reads all its arguments and asks once.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/memory.h"
#include "napi/args.h"
#include "quant/types.h"

namespace tmoe {

/** Product that stops at SIZE_MAX: as a least length it then refuses every array. */
inline size_t product(size_t a, size_t b, size_t c = 1, size_t d = 1) {
    size_t result = a;
    for (const size_t factor : {b, c, d})
        if (__builtin_mul_overflow(result, factor, &result)) return SIZE_MAX;
    return result;
}

/** When a call runs: at once, on a thread while JavaScript goes on, or again and again on the same arrays. */
enum class CallKind { Once, Threaded, Prepared };

/** An array of a prepared call: where it was, and its copy that is made anew for each run; null where it is read in place or as it was. */
struct PreparedArray {
    uint32_t index;   ///< among the arguments
    void* data;
    size_t length, bytes;
    void* copy;
};

class KernelArgs {
  public:
    KernelArgs(napi_env env, napi_value list, CallKind kind) : env_(env), list_(list), kind_(kind) {}

    size_t size(const char* name, int64_t least = 0, int64_t most = int64_t{1} << 31);
    /** 0 where it is left out. */
    size_t optional_size(const char* name, int64_t least, int64_t most) { return next_is_undefined() ? 0 : size(name, least, most); }
    double number(const char* name, double least, double most);
    bool flag(const char* name);
    DType dtype(const char* name);
    /** Index of the text among `names`. */
    size_t choice(const char* name, std::initializer_list<const char*> names) { return choose(name, names.begin(), names.size()); }
    /** `length` in whole parts of `each`: the number of parts. */
    size_t parts(const char* name, size_t length, size_t each);

    /** Caller-owned arrays with at least so many elements, read or written in place. */
    float* floats(const char* name, size_t least);
    uint8_t* bytes(const char* name, size_t least) { return array<uint8_t>(name, napi_uint8_array, least); }
    /** As bytes, at an address that is a multiple of 4. */
    uint8_t* aligned_bytes(const char* name, size_t least);
    const int32_t* int32s(const char* name, size_t least) { return array<int32_t>(name, napi_int32_array, least); }
    /** As above, but nothing else of the call may lie over them. */
    float* out_floats(const char* name, size_t least) { return alone(name, floats(name, least)); }
    uint8_t* out_bytes(const char* name, size_t least) { return alone(name, bytes(name, least)); }
    uint8_t* out_aligned_bytes(const char* name, size_t least) { return alone(name, aligned_bytes(name, least)); }
    int32_t* out_int32s(const char* name, size_t least) { return alone(name, array<int32_t>(name, napi_int32_array, least)); }
    uint32_t* out_uint32s(const char* name, size_t least) { return alone(name, array<uint32_t>(name, napi_uint32_array, least)); }
    int64_t* out_int64s(const char* name, size_t least) { return alone(name, array<int64_t>(name, napi_bigint64_array, least)); }
    int64_t* optional_out_int64s(const char* name, size_t least) { return next_is_undefined() ? nullptr : out_int64s(name, least); }
    /**
     * Ids, indices and masks: copied, because they are trusted once checked, while the caller's memory may be shared with another thread
     * or change while the call runs. The first two are what the kernel itself checks: a prepared call reads them anew each time.
     */
    const int32_t* ids(const char* name, size_t least) { return copied<int32_t>(name, napi_int32_array, least, true); }
    const uint32_t* indices(const char* name, size_t least) { return copied<uint32_t>(name, napi_uint32_array, least, true); }
    const int32_t* ids_checked_here(const char* name, size_t least) { return copied<int32_t>(name, napi_int32_array, least, false); }
    const uint32_t* optional_indices(const char* name, size_t least) {
        return next_is_undefined() ? nullptr : copied<uint32_t>(name, napi_uint32_array, least, false);
    }
    const int32_t* optional_ids(const char* name, size_t least) { return next_is_undefined() ? nullptr : ids_checked_here(name, least); }
    const int64_t* optional_int64s(const char* name, size_t least) {
        return next_is_undefined() ? nullptr : copied<int64_t>(name, napi_bigint64_array, least, false);
    }
    const uint8_t* optional_mask(const char* name, size_t least) {
        return next_is_undefined() ? nullptr : copied<uint8_t>(name, napi_uint8_array, least, false);
    }

    std::vector<int32_t> optional_tokens(const char* name);
    /** A copy of exactly so many; empty where it is left out. */
    std::vector<float> optional_floats(const char* name, size_t count);
    bool next_is_undefined();
    std::vector<uint32_t> optional_words(const char* name);
    /** Elements of the array read last. */
    size_t last_length() const { return last_length_; }
    /** Fails the call, unless it has failed already. */
    void refuse(const std::string& message);
    /** Fails where the array read last is shorter than a size that was read after it. */
    void require(const char* name, size_t length, size_t least);

    bool ok() const { return status_.ok(); }
    /** The first failure; once all is read, also that of an output that lies over another array, which kernels may read back. */
    Status status() const;
    /** What the call's memory belongs to. */
    std::vector<napi_value> keep;
    std::shared_ptr<std::vector<Buffer>> copies;
    /** Of a prepared call: all its arrays. */
    std::vector<PreparedArray> arrays;

  private:
    napi_value next();
    size_t choose(const char* name, const char* const* names, size_t count);
    ArrayView view(const char* name, napi_typedarray_type type, size_t least);
    template <class T> T* array(const char* name, napi_typedarray_type type, size_t least) { return view(name, type, least).as<T>(); }
    template <class T> T* alone(const char* name, T* data) {
        if (data && range_count_ > 0) ranges_[range_count_ - 1].alone = name;
        return data;
    }
    void remember(const ArrayView& array);
    template <class T> const T* copied(const char* name, napi_typedarray_type type, size_t least, bool anew) {
        return static_cast<const T*>(copy_of(name, type, least, anew));
    }
    const void* copy_of(const char* name, napi_typedarray_type type, size_t least, bool anew);

    struct Range {
        uintptr_t from, to;
        const char* alone;   ///< the argument's name where nothing may lie over it
    };
    static constexpr size_t kMostRanges = 16;   ///< arrays in one call

    napi_env env_;
    napi_value list_;
    CallKind kind_;
    uint32_t index_ = 0;
    size_t last_length_ = 0;
    size_t range_count_ = 0;
    Range ranges_[kMostRanges];
    Status status_;
};

}  // namespace tmoe
