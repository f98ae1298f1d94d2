// What the CUDA kernels share: how they are launched, and how an error comes back.
//
// Two macros stand between the kernels and the toolkit, so that the same source also runs block by block on the CPU in
// the tests (tests/cuda_on_cpu.h), where no GPU is: MIXAUG_LAUNCH starts a kernel, MIXAUG_TRAP stops it.
#pragma once

#if defined(MIXAUG_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#define MIXAUG_TRAP() __trap()
#define MIXAUG_LAUNCH(kernel, blocks, threads, stream, ...) \
    (kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__), \
     static_cast<int>(cudaGetLastError()))
#endif

// Entry points return 0, a code of composite.h, or this plus CUDA's own error.
enum : int { MIXAUG_CUDA_ERROR = 1000 };
