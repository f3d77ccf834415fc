// Which kernels this CPU can run. Filled once; the environment variable TIERED_MOE_ISA overrides "auto".
#include <cstdlib>
#include <cstring>
#include <string>

#include "cpu/isa_prelude.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tmoe {

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::Scalar: return "scalar";
        case Isa::Avx2: return "avx2";
        case Isa::Avx512: return "avx512";
        case Isa::Neon: return "neon";
    }
    return "";
}

namespace {

#if defined(__x86_64__)
struct Cpu {
    CpuFeature list[8];
    bool fma, avx2, avx512;
    Cpu() {
        __builtin_cpu_init();
        const bool vector512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        const bool vnni = __builtin_cpu_supports("avx512vnni");
        fma = __builtin_cpu_supports("fma");
        unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;  // some compilers do not know F16C by name, and a virtual machine may hide it
        const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
        avx2 = __builtin_cpu_supports("avx2") && fma && f16c && __builtin_cpu_supports("bmi2");
        avx512 = avx2 && vector512 && vnni;
        const CpuFeature found[] = {{"sse4.2", !!__builtin_cpu_supports("sse4.2")}, {"avx", !!__builtin_cpu_supports("avx")},
                                    {"fma", fma}, {"f16c", f16c}, {"avx2", !!__builtin_cpu_supports("avx2")},
                                    {"bmi2", !!__builtin_cpu_supports("bmi2")}, {"avx512f/bw/dq/vl", vector512},
                                    {"avx512vnni", vnni}};
        memcpy(list, found, sizeof list);
    }
};
#else
struct Cpu {
    CpuFeature list[1] = {{"neon", true}};
    bool fma = true, avx2 = false, avx512 = false;
};
#endif

const Cpu& cpu() {
    static const Cpu found;
    return found;
}

}  // namespace

size_t cpu_features(const CpuFeature*& out) {
    out = cpu().list;
    return sizeof(Cpu::list) / sizeof(CpuFeature);
}

const Kernels* find_kernels(Isa isa) {
    switch (isa) {
        case Isa::Scalar: return cpu().fma ? kernels_scalar_fma() : kernels_scalar_soft();
        case Isa::Avx2: return cpu().avx2 ? kernels_avx2() : nullptr;
        case Isa::Avx512: return cpu().avx512 ? kernels_avx512() : nullptr;
        case Isa::Neon: return kernels_neon();
    }
    return nullptr;
}

size_t available_isas(Isa out[4]) {
    size_t count = 0;
    for (Isa isa : {Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon}) {
        if (find_kernels(isa)) out[count++] = isa;
    }
    return count;
}

Status resolve_isa(const char* name, Isa& out) {
    if (strcmp(name, "auto") == 0) {
        const char* override_name = getenv("TIERED_MOE_ISA");
        if (override_name && *override_name && strcmp(override_name, "auto") != 0) return resolve_isa(override_name, out);
    }
    Isa isas[4];
    const size_t count = available_isas(isas);
    std::string list;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, isa_name(isas[i])) == 0) {
            out = isas[i];
            return {};
        }
        list += (i ? ", " : "") + std::string(isa_name(isas[i]));
    }
    if (strcmp(name, "auto") == 0) {
        out = isas[count - 1];
        return {};
    }
    return Status(StatusCode::ISA_UNSUPPORTED, format("instruction set '%.40s' is not available here; available: %s", name, list.c_str()))
        .with("isa", std::string(name))
        .with("available", list);
}

}  // namespace tmoe
