// IPMix: the structs that its C++ and its CUDA form are called with. Plain C++17, no header of torch or Python.
#pragma once

#include <cstdint>

// Mirrors mixaug_ext/_ipmix.py: IPMixArgs, field by field. Strides count elements; tensors of the record are
// contiguous: (rows, k), (rows, k, t), (rows, k, t, 4).
struct IPMixArgs {
    const void* images;
    void* out;
    const std::uint8_t* pictures;  // (P, 3, bank, bank), bank <= side: enlarged to side where a patch needs them
    const std::int64_t* depth;
    const std::int64_t* op;
    const std::int64_t* source;
    const float* level;
    const std::int64_t* sign;
    const std::int64_t* box;
    const float* a;
    const float* b;
    const float* keep;
    const std::int64_t* seed;
    const std::int64_t* picture;
    const std::int64_t* top;
    const std::int64_t* left;
    const float* skip;  // (rows,)
    const float* coef;  // (rows, k)
    std::int64_t rows, batch, channels, height, width, k, t, side, bank;
    std::int64_t in_strides[4], out_strides[4];
    std::int64_t is_float, mixed_input, threads;
};

// Mirrors mixaug_ext/_ipmix.py: IPMixCudaArgs.
struct IPMixCudaArgs {
    IPMixArgs common;
    std::int64_t dtype, pictures;  // codes of composite.h; pictures in the mixing set
    std::uint8_t* scratch;         // blocks x (k + 2) images of bytes; null: shared memory holds them
    std::int64_t blocks;
    void* stream;
};
