// The instruction set that the kernels use: the widest one here, or a lower one that MIXAUG_ISA names.
#pragma once

#include <cstdlib>
#include <cstring>

namespace mixaug {

enum class Isa { generic, avx2, avx512 };

// The widest that this processor and system have.
inline Isa widest_isa() {
#if defined(__x86_64__) && defined(__GNUC__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("f16c")) return Isa::generic;
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("popcnt");
    return wide ? Isa::avx512 : Isa::avx2;
#else
    return Isa::generic;
#endif
}

// Read once. A name that is unknown or above the widest is the widest: mixaug_ext has refused the former before.
inline Isa isa() {
    static const Isa chosen = [] {
        const Isa widest = widest_isa();
        const char* name = std::getenv("MIXAUG_ISA");
        if (!name) return widest;
        const Isa asked = !std::strcmp(name, "generic") ? Isa::generic : !std::strcmp(name, "avx2") ? Isa::avx2 : Isa::avx512;
        return asked < widest ? asked : widest;
    }();
    return chosen;
}

}  // namespace mixaug
