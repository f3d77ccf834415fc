// The int8 peak of this machine, sampled beside a measurement.
//   int8_peak THREADS [SECONDS]     prints Gop/s (a product and its sum are two), 0 where this machine has no dot products of bytes
#include "int8_peak.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
    const size_t threads = argc > 1 ? strtoul(argv[1], nullptr, 10) : 1;
    const double duration = argc > 2 ? atof(argv[2]) : 0.3;
    if (!kHasInt8Peak) return puts("0"), 0;
    const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
    std::vector<double> rates(threads);
    std::vector<std::thread> workers;
    for (double& rate : rates) {
        workers.emplace_back([&rate, duration, now] {
            const double begin = now();
            double end = begin, operations = 0;
            for (; end - begin < duration; end = now(), operations += kPeakOperations) int8_operations(kPeakRepeats);
            rate = operations / (end - begin) / 1e9;
        });
    }
    double sum = 0;
    for (size_t i = 0; i < threads; i++) {
        workers[i].join();
        sum += rates[i];
    }
    printf("%.1f\n", sum);
    return 0;
}
