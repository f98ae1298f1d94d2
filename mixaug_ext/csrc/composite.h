// Box compositing: what its C++ and its CUDA form share. Plain C++17, no header of torch or Python.
#pragma once

#include <cstdint>

#if defined(_WIN32)
#define MIXAUG_API extern "C" __declspec(dllexport)
#else
#define MIXAUG_API extern "C" __attribute__((visibility("default")))
#endif

#if defined(__CUDACC__)
#define MIXAUG_BOTH __host__ __device__ inline
#else
#define MIXAUG_BOTH inline
#endif

// Mirrors mixaug_ext/_composite.py: CompositeArgs, field by field.
//
// An image is `planes` planes of `rows` rows of `width` elements: (C, H, W) for contiguous images, (1, H, W C) for
// channels_last ones, where `inner` = C elements make a pixel. Strides (image, plane, row) count elements; the elements
// of a row lie side by side.
struct CompositeArgs {
    const void *base, *a, *b;  // b null: one source
    void* out;
    const std::int64_t* boxes;  // (batch, n_boxes, 4) XYXY, half-open, in pixels; clipped here
    const float* beta;          // (batch,), null without b
    const std::int64_t *index_a, *index_b;  // (batch,) or null: image i takes row i
    std::int64_t* area;                     // (batch,) pixels of the union, written
    std::int64_t batch, planes, rows, width, inner, n_boxes, count_a, count_b;
    std::int64_t base_strides[3], a_strides[3], b_strides[3], out_strides[3];
    std::int64_t dtype, threads;
    void* stream;  // of CUDA; unused on the CPU
};

// Codes of `dtype`.
enum : std::int64_t { MIXAUG_U8, MIXAUG_F16, MIXAUG_BF16, MIXAUG_F32 };

// What the entry points return. Nothing was written when it is one of the BAD ones.
enum : int { MIXAUG_DONE, MIXAUG_NO_MEMORY, MIXAUG_BAD_INDEX, MIXAUG_BAD_ARGUMENT, MIXAUG_BAD_RECORD };
