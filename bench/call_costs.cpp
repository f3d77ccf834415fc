// What two kernels take when C++ calls them: the native half of bench/calls.mjs, on the same sizes.
//   call_costs ISA WIDTH HIDDEN EXPERTS K      prints one JSON line: microseconds of route and of expert_matmul for one token, the median of seven rounds
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/expert_matmul.h"
#include "cpu/route.h"
#include "quant/repack.h"

using namespace tmoe;

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class Fn> double microseconds(Fn&& fn) {
    std::vector<double> rounds;
    for (int round = 0; round < 8; round++) {
        size_t calls = 0;
        const double begin = seconds();
        double now = begin;
        while (now - begin < 0.03) {
            for (int i = 0; i < 64; i++) fn();
            calls += 64;
            now = seconds();
        }
        if (round > 0) rounds.push_back((now - begin) / static_cast<double>(calls) * 1e6);  // the first warms up
    }
    std::sort(rounds.begin(), rounds.end());
    return rounds[rounds.size() / 2];
}

void must(const Status& status) {
    if (!status.ok()) exit(fprintf(stderr, "call_costs: %s\n", status.message().c_str()));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 6) return fprintf(stderr, "call_costs ISA WIDTH HIDDEN EXPERTS K\n"), 2;
    const size_t width = strtoul(argv[2], nullptr, 10), hidden = strtoul(argv[3], nullptr, 10), experts = strtoul(argv[4], nullptr, 10), k = strtoul(argv[5], nullptr, 10);
    Isa isa{};
    must(resolve_isa(argv[1], isa));
    ThreadPool pool;
    const Context context = {*find_kernels(isa), pool};
    const auto wave = [](size_t i) { return static_cast<float>(i * 7919 % 1024) / 1024 - 0.5f; };

    std::vector<float> states(width), weights(experts * width), probabilities(experts), out(k * width), chosen(k);
    for (size_t i = 0; i < width; i++) states[i] = wave(i);
    for (size_t i = 0; i < weights.size(); i++) weights[i] = wave(3 * i + 1);
    Buffer router, states24;   // aligned as JavaScript's memory is
    must(router.allocate(weights.size() * sizeof(int32_t)));
    must(states24.allocate(width * sizeof(int32_t)));
    std::vector<int32_t> ids(k);
    std::vector<int64_t> scores(experts);
    const int exponent = context.kernels.quantise_state(weights.data(), weights.size(), router.as<int32_t>());
    const uint32_t position = 0;
    RouteArgs route_args = {};
    route_args.states = states.data();
    route_args.tokens = 1;
    route_args.router = {router.as<int32_t>(), exponent, experts, width};
    route_args.k = k;
    route_args.form = RouteForm::SoftmaxTopk;
    route_args.positions = &position;
    route_args.ids = ids.data();
    route_args.weights = chosen.data();
    route_args.scores = scores.data();
    route_args.states24 = states24.as<int32_t>();
    route_args.probabilities = probabilities.data();
    must(route(context, route_args));

    constexpr DType kType = DType::Q8_0;
    std::vector<uint32_t> offsets(experts + 1), slots(k), rows(k);
    must(dispatch({ids.data(), 1, k, experts, offsets.data(), slots.data(), rows.data()}));
    Buffer in, down;
    must(in.allocate(experts * packed_bytes(kType, hidden, width)));   // zeros are weights too
    must(down.allocate(experts * packed_bytes(kType, width, hidden)));
    const ExpertStack gate = {{kType, hidden, width, in.as<uint8_t>()}, packed_bytes(kType, hidden, width)};
    const ExpertStack back = {{kType, width, hidden, down.as<uint8_t>()}, packed_bytes(kType, width, hidden)};
    const ExpertMatmulArgs matmul_args = {states.data(), 1, width, k, experts, gate, gate, back, offsets.data(), slots.data(), out.data()};
    ExpertScratch scratch;
    must(expert_matmul(context, matmul_args, scratch, {}));
    printf("{\"route\": %.4f, \"expertMatmul\": %.4f}\n", microseconds([&] { must(route(context, route_args)); }),
           microseconds([&] { must(expert_matmul(context, matmul_args, scratch, {})); }));
    return 0;
}
