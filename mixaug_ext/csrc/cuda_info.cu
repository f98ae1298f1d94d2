// What the loader asks of the CUDA library before it is used.

#include "composite.h"
#include "cuda_common.h"

// Same number as mixaug_abi() of the C++ library; bumped with any struct.
MIXAUG_API int mixaug_cuda_abi() { return 9; }

// 0: kernels of this library can run on this device; else CUDA's error.
MIXAUG_API int mixaug_cuda_probe(int device) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return static_cast<int>(error);
    return device < count ? 0 : static_cast<int>(cudaErrorInvalidDevice);
}

MIXAUG_API const char* mixaug_cuda_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
