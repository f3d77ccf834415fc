// Hints that memory will be read soon.
#pragma once

namespace tmoe {

/**
 * Asks for the line at `p`, which need not exist. Not __builtin_prefetch alone: GCC takes what does nothing else (a lambda, a loop) for code
 * without an effect, and drops it.
 */
inline void prefetch_line(const void* p) {
#if defined(__GNUC__) && defined(__x86_64__)
    __asm__ volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
#elif defined(__GNUC__) && defined(__aarch64__)
    __asm__ volatile("prfm pldl1keep, %a0" : : "p"(p));
#else
    (void)p;
#endif
}

/** The same for what is read once and not again for long: it does not take the place of other data in the outer caches. */
inline void prefetch_passing(const void* p) {
#if defined(__GNUC__) && defined(__x86_64__)
    __asm__ volatile("prefetchnta %0" : : "m"(*static_cast<const char*>(p)));
#elif defined(__GNUC__) && defined(__aarch64__)
    __asm__ volatile("prfm pldl1strm, %a0" : : "p"(p));
#else
    (void)p;
#endif
}

}  // namespace tmoe
