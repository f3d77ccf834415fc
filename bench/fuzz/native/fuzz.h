// What the fuzzed programs share: an input as a file, choices from an input, and an end where one takes too long.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

namespace tmoe::fuzz {

/** Ends the program where its own processor time since the begin of an input is over a second. */
class Clock {
  public:
    Clock() : from_(seconds()) {}
    ~Clock() {
        if (seconds() - from_ <= kMost) return;
        fprintf(stderr, "it took more than %g s\n", kMost);
        __builtin_trap();
    }

  private:
    // Sanitizers make everything some times slower; what is meant is a hang.
    static constexpr double kMost = 1.0;
    static double seconds() {
        timespec now{};
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
        return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
    }
    double from_;
};

/** The input as a file without a place on a disk. */
class MemoryFile {
  public:
    MemoryFile(const uint8_t* data, size_t bytes) : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)) {
        for (size_t done = 0; done < bytes;) {
            const ssize_t wrote = write(descriptor_, data + done, bytes - done);
            if (wrote <= 0) __builtin_trap();
            done += static_cast<size_t>(wrote);
        }
    }
    ~MemoryFile() { close(descriptor_); }
    std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

  private:
    int descriptor_;
};

/** Numbers from the begin of an input; zeros behind its end. */
class Choices {
  public:
    Choices(const uint8_t* data, size_t bytes) : data_(data), left_(bytes) {}
    template <class T> T take() {
        T value{};
        const size_t part = sizeof value < left_ ? sizeof value : left_;
        memcpy(&value, data_, part);
        data_ += part;
        left_ -= part;
        return value;
    }
    const uint8_t* rest() const { return data_; }
    size_t left() const { return left_; }

  private:
    const uint8_t* data_;
    size_t left_;
};

}  // namespace tmoe::fuzz
