// Traces: words of any kind, replayed by every policy.
#include "core/store/simulator.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
    using namespace tmoe;
    const fuzz::Clock clock;
    fuzz::Choices choices(data, bytes);
    SimulationOptions options;
    const SimulatedPolicy policies[] = {SimulatedPolicy::Cache, SimulatedPolicy::Arc, SimulatedPolicy::Optimum};
    options.policy = policies[choices.take<uint8_t>() % 3];
    options.cache.policy = static_cast<CachePolicy>(choices.take<uint8_t>() % 4);
    options.cache.layers = 1 + choices.take<uint8_t>() % 8;
    options.cache.experts = 1 + choices.take<uint8_t>() % 16;
    options.cache.slots = 1 + choices.take<uint8_t>() % 64;
    options.recorded_slots = choices.take<uint8_t>() % 2 ? options.cache.slots : 0;
    options.decisions = choices.take<uint8_t>() % 2;
    std::vector<uint32_t> words(choices.left() / sizeof(uint32_t));
    if (!words.empty()) memcpy(words.data(), choices.rest(), words.size() * sizeof(uint32_t));
    Trace trace;
    trace.layers = options.cache.layers;
    trace.experts = options.cache.experts;
    trace.words = words.data();
    trace.count = words.size();
    Simulation out;
    (void)simulate(trace, options, out).ok();
    return 0;
}
