// ReLU with a cap: what its C++ and its CUDA form share. Plain C++17, no header of torch or Python.
//
// Values are handled as the integers that their bits are: of values that are not negative the integers have the order
// of the numbers, so clipping needs no conversion of the half types, and what is passed on keeps its bits.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "composite.h"  // MIXAUG_API and the codes

// Mirrors mixaug_ext/_capped_relu.py, word by word.
//
// The tensors are `outer` x `caps` x `inner` elements without gaps; cap c belongs to the elements [:, c, :].
struct CappedReLUArgs {
    const void* in;    // forward: x; backward: the gradient of the output
    const void* kept;  // backward: the output
    const float* cap;  // (caps,) as learnt, not yet clipped at 0 or rounded
    void* out;         // forward: the output, may be `in`; backward: the gradient of x, or null
    float* grad_cap;   // backward: (caps,) the gradient of the caps, or null
    float* partials;   // of CUDA: room for the first stage of that sum
    std::int64_t outer, caps, inner, dtype;
    std::int64_t threads, vectors;  // of the CPU; vectors: 0 plain code, 1 up to AVX2, 2 up to AVX-512
    void* stream;                   // of CUDA
};

namespace mixaug {

struct F32 {
    using Int = std::int32_t;
    using Unsigned = std::uint32_t;
    static constexpr Int infinity = 0x7f800000, nan = 0x7fc00000, most = 0x7fffffff;
};
struct F16 {
    using Int = std::int16_t;
    using Unsigned = std::uint16_t;
    static constexpr Int infinity = 0x7c00, nan = 0x7e00, most = 0x7fff;
};
struct BF16 {
    using Int = std::int16_t;
    using Unsigned = std::uint16_t;
    static constexpr Int infinity = 0x7f80, nan = 0x7fc0, most = 0x7fff;
};

MIXAUG_BOTH float as_float(std::uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
MIXAUG_BOTH std::uint32_t as_bits(float value) {
    std::uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

MIXAUG_BOTH float widen(F32, std::int32_t v) { return as_float(static_cast<std::uint32_t>(v)); }
MIXAUG_BOTH float widen(BF16, std::int16_t v) {
    return as_float(static_cast<std::uint32_t>(static_cast<std::uint16_t>(v)) << 16);
}
MIXAUG_BOTH float widen(F16, std::int16_t v) {  // branch-free, so that the compiler uses vectors
    const std::uint32_t bits = static_cast<std::uint16_t>(v), magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
    const std::uint32_t normal = (magnitude << 13) + (112u << 23), special = (magnitude << 13) | 0x7f800000u;
    // Subnormal: times 2^-24.
    const float number = static_cast<float>(static_cast<std::int32_t>(magnitude));
    const std::uint32_t small = as_bits(number * 5.9604644775390625e-8f);
    return as_float((magnitude >= 0x7c00u ? special : (magnitude < 0x0400u ? small : normal)) | sign);
}

// A number that is not negative, rounded half to even.
MIXAUG_BOTH std::int32_t narrow(F32, std::uint32_t bits) { return static_cast<std::int32_t>(bits); }
MIXAUG_BOTH std::int16_t narrow(BF16, std::uint32_t bits) {
    return static_cast<std::int16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
MIXAUG_BOTH std::int16_t narrow(F16, std::uint32_t bits) {
    if (bits >= 0x477ff000u) return F16::infinity;
    // Below 2^-14 the result is a multiple of 2^-24: adding 1/2 leaves that multiple, rounded, in the low bits.
    if (bits < 0x38800000u) return static_cast<std::int16_t>(as_bits(as_float(bits) + 0.5f) - 0x3f000000u);
    return static_cast<std::int16_t>((bits - (112u << 23) + 0x0fffu + ((bits >> 13) & 1u)) >> 13);
}

// max(m, 0) in the dtype of x; a NaN stays one.
template <typename F>
MIXAUG_BOTH typename F::Int cap_bits(float m) {
    if (m != m) return F::nan;
    return m > 0.0f ? narrow(F(), as_bits(m)) : typename F::Int(0);
}

// The same for the backward pass: nothing is capped by a cap of 0 or NaN.
template <typename F>
MIXAUG_BOTH typename F::Int active_cap_bits(float m) {
    const typename F::Int cap = cap_bits<F>(m);
    return cap > 0 && cap <= F::infinity ? cap : F::most;
}

template <typename F>
MIXAUG_BOTH bool is_nan(typename F::Int v) {
    return static_cast<typename F::Int>(v & F::most) > F::infinity;
}

// All bits where the condition holds: masks, unlike conditions, leave the compiler no branches to make.
template <typename Int>
MIXAUG_BOTH Int mask(bool condition) {
    return static_cast<Int>(-static_cast<Int>(condition));
}

// max(0, min(cap, x)) as torch's operations give it: -0.0 below a cap above 0 stays -0.0.
template <typename F>
MIXAUG_BOTH typename F::Int clip(typename F::Int x, typename F::Int cap) {
    using Int = typename F::Int;
    if constexpr (std::is_same_v<F, F32>) {  // as floats it is a third of the operations
        const float m = widen(F(), cap), from_zero = 0.0f > widen(F(), x) ? 0.0f : widen(F(), x);
        const float number = from_zero >= m ? m : from_zero;
        return static_cast<Int>(as_bits(m != m ? m : number));
    }
    const Int zero = static_cast<Int>(-F::most - 1), below = x < cap ? x : cap;
    const Int passed = mask<Int>(is_nan<F>(x));
    const Int positive = below & mask<Int>(x > 0), negative = zero & mask<Int>((x == zero) & (cap > 0));
    const Int number = static_cast<Int>(((positive | negative) & ~passed) | (x & passed));
    return cap > F::infinity ? cap : number;
}

// Whether the gradient goes to m, and whether it does not go to x; `cap` from active_cap_bits.
template <typename F>
MIXAUG_BOTH bool capped(typename F::Int out, typename F::Int cap) {
    if constexpr (std::is_same_v<F, F32>) return widen(F(), out) >= widen(F(), cap);  // false for a NaN, so for F::most
    return (out >= cap) & !is_nan<F>(out);
}
template <typename F>
MIXAUG_BOTH bool blocked(typename F::Int out, typename F::Int cap) {
    if constexpr (std::is_same_v<F, F32>) return (widen(F(), out) <= 0.0f) | capped<F>(out, cap);
    return ((out <= 0) | (out >= cap)) & !is_nan<F>(out);
}

}  // namespace mixaug
