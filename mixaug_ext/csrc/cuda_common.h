// What the CUDA kernels share: how they are launched, and how an error comes back.
//
// A few macros stand between the kernels and the toolkit, so that the same source also runs block by block on the CPU in
// the tests (tests/helpers/cuda_on_cpu.h), where no GPU is: MIXAUG_LAUNCH starts a kernel, MIXAUG_LAUNCH_SHARED one with that many
// bytes of shared memory, which MIXAUG_DYNAMIC_SHARED declares, and MIXAUG_TRAP stops it.
#pragma once

#if defined(MIXAUG_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#define MIXAUG_TRAP() __trap()
#define MIXAUG_LAUNCH_SHARED(kernel, blocks, threads, bytes, stream, ...) \
    (kernel<<<static_cast<unsigned>(blocks), threads, static_cast<std::size_t>(bytes), \
              static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__), \
     static_cast<int>(cudaGetLastError()))
#define MIXAUG_LAUNCH(kernel, blocks, threads, stream, ...) \
    MIXAUG_LAUNCH_SHARED(kernel, blocks, threads, 0, stream, __VA_ARGS__)
#define MIXAUG_DYNAMIC_SHARED(name) extern __shared__ std::uint8_t name[]
#endif

// Entry points return 0, a code of composite.h, or this plus CUDA's own error.
enum : int { MIXAUG_CUDA_ERROR = 1000 };
