// Runs the CUDA kernels of mixaug_ext/csrc on the CPU: a thread of a block is a thread of the machine, __syncthreads()
// a barrier, blocks come one after the other. Slow, and just for tests: it shows that the kernels' logic is right where no
// GPU is, not that they are fast or that they run on one.
#pragma once

#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

struct dim3_on_cpu { unsigned x = 0, y = 0, z = 0; };

namespace cuda_on_cpu {
inline thread_local dim3_on_cpu thread, block, block_size, grid_size;
inline std::barrier<>* barrier = nullptr;
inline std::atomic<bool> trapped{false};

constexpr int TRAPPED = 710;  // cudaErrorAssert

template <typename Kernel>
int launch(unsigned blocks, unsigned threads, Kernel&& kernel) {
    std::barrier<> meet(static_cast<std::ptrdiff_t>(threads));
    barrier = &meet;
    trapped = false;
    std::vector<std::thread> running;
    for (unsigned t = 0; t < threads; t++)
        running.emplace_back([&, t]() {
            thread = {t, 0, 0};
            block_size = {threads, 1, 1};
            grid_size = {blocks, 1, 1};
            for (unsigned b = 0; b < blocks; b++) {
                block = {b, 0, 0};
                kernel();
                meet.arrive_and_wait();  // shared memory belongs to one block at a time
            }
        });
    for (auto& one : running) one.join();
    return trapped ? TRAPPED : 0;
}
}  // namespace cuda_on_cpu

#define threadIdx cuda_on_cpu::thread
#define blockIdx cuda_on_cpu::block
#define blockDim cuda_on_cpu::block_size
#define gridDim cuda_on_cpu::grid_size
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static
#define __syncthreads() cuda_on_cpu::barrier->arrive_and_wait()
#define __float2int_rn(v) static_cast<int>(std::nearbyintf(v))

#define MIXAUG_TRAP() do { cuda_on_cpu::trapped = true; return; } while (0)
#define MIXAUG_STRIP(...) __VA_ARGS__
#define MIXAUG_LAUNCH(kernel, blocks, threads, stream, ...) \
    cuda_on_cpu::launch(static_cast<unsigned>(blocks), threads, [&]() { (MIXAUG_STRIP kernel)(__VA_ARGS__); })

#define MIXAUG_LAUNCH_SHARED(kernel, blocks, threads, bytes, stream, ...) \
    MIXAUG_LAUNCH(kernel, blocks, threads, stream, __VA_ARGS__)
#define MIXAUG_DYNAMIC_SHARED(name) static std::uint8_t name[48 << 10]

template <typename T>
T atomicAdd(T* at, T value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }

// The two half types, converted by their definitions.
struct __half { std::uint16_t bits; };
struct __nv_bfloat16 { std::uint16_t bits; };

inline float __half2float(__half v) {
    const int exponent = v.bits >> 10 & 31, fraction = v.bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? std::ldexp(1024.0f + static_cast<float>(fraction), exponent - 25)
                                      : std::ldexp(static_cast<float>(fraction), -24);
    return v.bits & 0x8000 ? -size : size;
}
inline __half __float2half_rn(float v) {
    const std::uint16_t sign = std::signbit(v) ? 0x8000 : 0;
    const float size = std::fabs(v);
    if (std::isnan(v)) return {static_cast<std::uint16_t>(sign | 0x7e00)};
    if (size >= 65520.0f) return {static_cast<std::uint16_t>(sign | 0x7c00)};
    int exponent = 0;
    std::frexp(size, &exponent);  // size = f 2^exponent, f in [1/2, 1)
    const int unit = (exponent < -13 ? -13 : exponent) - 11;
    const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, -unit)));  // half to even; may carry into 2048
    if (exponent < -13) return {static_cast<std::uint16_t>(sign | steps)};
    return {static_cast<std::uint16_t>(sign | (((exponent + 14) << 10) + (steps - 1024)))};
}
inline float __bfloat162float(__nv_bfloat16 v) {
    const std::uint32_t bits = static_cast<std::uint32_t>(v.bits) << 16;
    float out;
    __builtin_memcpy(&out, &bits, 4);
    return out;
}
inline __nv_bfloat16 __float2bfloat16_rn(float v) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &v, 4);
    if (std::isnan(v)) return {0x7fff};
    return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
