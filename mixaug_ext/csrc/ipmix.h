// IPMix: the structs that its C++ and its CUDA form are called with. Plain C++17, no header of torch or Python.
#pragma once

#include <cstdint>

#include "composite.h"  // MIXAUG_BOTH

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
    std::int64_t n_pictures;
};

// Mirrors mixaug_ext/_ipmix.py: IPMixCudaArgs.
struct IPMixCudaArgs {
    IPMixArgs common;
    std::int64_t dtype;     // codes of composite.h
    std::uint8_t* scratch;  // blocks x (k + 2) images of bytes; null: shared memory holds them
    std::int64_t blocks;
    void* stream;
};

// The kernels' own bounds, the last line behind the checks in Python: what they index, allocate or convert by.
namespace mixaug_record {

constexpr std::int64_t FIRST_MIXING = 15, OPERATIONS = 19;  // of OPERATIONS in mixaug/ops/ipmix_record.py
constexpr std::int64_t MOST_SIDE = 46340;                   // an enlarged picture's coordinates fit 64 bits: 2^32 side^2

// The sizes that all rows share.
MIXAUG_BOTH bool sizes_fit(const IPMixArgs& g) {
    const bool counts = g.rows >= 0 && g.batch > 0 && g.k >= 0 && g.t >= 0 && g.n_pictures >= 0;
    const bool pictures = g.side <= MOST_SIDE && g.bank > 0 && g.bank <= g.side;
    const bool image = (g.channels == 1 || g.channels == 3) && g.height > 0 && g.width > 0;
    return counts && pictures && image && g.height <= g.side && g.width <= g.side && g.height * g.width <= 0x7fff0000;
}

// Steps of a chain.
MIXAUG_BOTH bool depth_fits(const IPMixArgs& g, std::int64_t chain) { return g.depth[chain] >= 0 && g.depth[chain] <= g.t; }

// A step that is carried out, at this place of (rows, k, t), and the picture of its row where it takes one.
MIXAUG_BOTH bool step_fits(const IPMixArgs& g, std::int64_t row, std::int64_t at) {
    const std::int64_t op = g.op[at], sign = g.sign[at];
    if (op < 0 || op >= OPERATIONS) return false;
    if (!(g.level[at] >= 0.0f && g.level[at] <= 10.0f) || (sign != 1 && sign != -1)) return false;
    if (op < FIRST_MIXING) return true;
    if (!(g.keep[at] >= 0.0f && g.keep[at] <= 1.0f) || g.source[at] < -1 || g.source[at] >= FIRST_MIXING) return false;
    const std::int64_t* box = g.box + at * 4;
    if (box[0] < 0 || box[2] < box[0] || box[2] > g.width || box[1] < 0 || box[3] < box[1] || box[3] > g.height) return false;
    return g.source[at] >= 0 || (g.picture[row] >= 0 && g.picture[row] < g.n_pictures && g.top[row] >= 0 &&
                                 g.top[row] <= g.side - g.height && g.left[row] >= 0 && g.left[row] <= g.side - g.width);
}

}  // namespace mixaug_record
