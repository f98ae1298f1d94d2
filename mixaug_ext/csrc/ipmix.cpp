// IPMix on the CPU: replays a whole record (every chain of every image) in one call.
//
// Plain C++17 behind a C interface that takes pointers, sizes and strides: no header of torch or Python, so one build
// serves every torch. The arithmetic is the one of mixaug/ops (its PyTorch form, bit for bit): integer fixed point for
// warps, 256-entry tables for colour, two look-ups and one float operation for mixing. Built with -ffp-contract=off,
// since a fused multiply-add would round differently.
//
// Threads are started per call and joined before it returns: nothing outlives the call, so a forked loader worker
// inherits no half-dead pool (measured here: about 20 us to start and join one thread, 0.2% of a batch of 128).

#include "composite.h"  // MIXAUG_API
#include "ipmix.h"
#include "isa.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <thread>
#include <vector>

namespace {

using u8 = std::uint8_t;
using i32 = std::int32_t;
using u32 = std::uint32_t;
using i64 = std::int64_t;

// Codes of mixaug/ops/ipmix_record.py: OPERATIONS.
enum Op : i64 {
    EQUALIZE, POSTERIZE, SOLARIZE, INVERT, MIRROR, ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y,
    AUTOCONTRAST, COLOR, CONTRAST, BRIGHTNESS, SHARPNESS, ADD, MULTIPLY, RANDOM_PIXELS, RANDOM_ELEMENTS
};

struct Box { int x0, y0, x1, y1; };

// What the rows of a thread are made in.
struct Scratch {
    std::vector<u8> base, spare, source;
    std::vector<std::vector<u8>> chain;
    std::vector<i32> columns;
};

}  // namespace

namespace {
namespace generic {
#include "ipmix_rows.h"
}
}  // namespace

#if defined(__x86_64__) && defined(__GNUC__)
#define MIXAUG_X86
#pragma GCC push_options
#pragma GCC target("avx2")
namespace {
namespace avx2 {
#include "ipmix_rows.h"
}
}  // namespace
#pragma GCC pop_options
#endif

namespace {

using RunRow = void (*)(const IPMixArgs&, i64, Scratch&);

RunRow run_row_here() {
#if defined(MIXAUG_X86)
    // Not for AVX-512: in its vectors the same loops took 10 to 20% longer (32 and 224 px, one thread).
    if (mixaug::isa() >= mixaug::Isa::avx2) return avx2::run_row;
#endif
    return generic::run_row;
}

}  // namespace

// The instruction set in use: 0 generic, 1 AVX2, 2 AVX-512.
MIXAUG_API int mixaug_isa() { return static_cast<int>(mixaug::isa()); }

// Bumped whenever a struct or its meaning changes, here or in a header; the loader refuses a library with another number.
MIXAUG_API int mixaug_abi() { return 9; }

// Mirrors mixaug_ext/_ipmix.py: SampleArgs. The uniforms of a row: 16 for each of its k t steps, 3 for each chain, 4.
struct SampleArgs {
    const float* uniforms;
    const i64* sides;
    i64 *depth, *op, *sign, *box, *source, *picture, *top, *left;
    float *weight, *m, *level, *a, *b, *keep;
    i64 rows, k, t, height, width, n_sides, whole, linear, image_level, operations, pictures, side;
    double severity, beta, self_mix;
};

// The arithmetic of sample_ipmix (mixaug/transforms/ipmix.py) on the same uniforms, in one pass: 65 small tensor
// operations cost 190 us for one image, this 3.
MIXAUG_API void mixaug_ipmix_sample(const SampleArgs* args) {
    const SampleArgs& g = *args;
    const i64 width = g.k * (g.t * 16 + 3) + 4, choices = g.n_sides + g.whole;
    const float lowest = 0.1f, range = static_cast<float>(g.severity - 0.1), own = static_cast<float>(g.self_mix);
    const float tiny = 1.17549435e-38f;
    auto below = [](float u, i64 n) {
        const i64 drawn = static_cast<i64>(u * static_cast<float>(n));
        return std::max<i64>(0, std::min(drawn, n - 1));
    };
    std::vector<float> exponential(static_cast<size_t>(g.k));
    for (i64 r = 0; r < g.rows; r++) {
        const float* steps = g.uniforms + r * width;
        const float* chains = steps + g.k * g.t * 16;
        const float* last = chains + g.k * 3;
        double total = 0.0;
        for (i64 i = 0; i < g.k; i++) {
            const float* c = chains + i * 3;
            g.depth[r * g.k + i] = below(c[1], g.t + 1);
            exponential[i] = std::max(static_cast<float>(-std::log1p(-static_cast<double>(c[2]))), tiny);
            total += exponential[i];
            for (i64 j = 0; j < g.t; j++) {
                const i64 at = (r * g.k + i) * g.t + j;
                const float* s = steps + (i * g.t + j) * 16;
                const float coin = !g.image_level ? 1.0f : g.linear ? s[0] : c[0];
                const bool mixes = choices > 0 && coin >= 0.5f;
                const i64 image_op = below(s[1], g.operations);
                g.op[at] = mixes ? ADD + below(s[2], 4) : image_op;
                g.level[at] = lowest + range * s[3];
                g.sign[at] = s[4] < 0.5f ? -1 : 1;
                const i64 choice = choices > 0 ? below(s[5], choices) : g.n_sides;
                i64 h = g.height, w = g.width;
                if (choice < g.n_sides) {
                    const i64 edge = g.sides[choice];
                    const bool square = s[6] < 0.5f;
                    h = square ? edge : 2 + below(s[7], edge - 1);
                    w = square ? edge : 2 + below(s[8], edge - 1);
                }
                const i64 y0 = below(s[9], g.height - h + 1), x0 = below(s[10], g.width - w + 1);
                i64* box = g.box + at * 4;
                box[0] = x0;
                box[1] = y0;
                box[2] = x0 + w;
                box[3] = y0 + h;
                const float first = static_cast<float>(std::pow(static_cast<double>(s[11]), 1.0 / g.beta));
                const float second = static_cast<float>(1.0 - std::pow(static_cast<double>(s[12]), 1.0 / g.beta));
                const bool plain = s[13] < 0.5f;
                g.a[at] = plain ? first : 2.0f - first;
                g.b[at] = plain ? second : -second;
                g.source[at] = mixes && s[14] < own ? image_op : -1;
                g.keep[at] = s[15];
            }
        }
        for (i64 i = 0; i < g.k; i++) g.weight[r * g.k + i] = static_cast<float>(exponential[i] / total);
        g.m[r] = last[0];
        g.picture[r] = below(last[1], g.pictures);
        g.top[r] = below(last[2], g.side - g.height + 1);
        g.left[r] = below(last[3], g.side - g.width + 1);
    }
}

namespace {

// What the record makes the kernel index, allocate or convert by, before anything is written.
bool record_fits(const IPMixArgs& g) {
    for (i64 chain = 0; chain < g.rows * g.k; chain++) {
        if (!mixaug_record::depth_fits(g, chain)) return false;
        for (i64 j = 0; j < g.depth[chain]; j++)
            if (!mixaug_record::step_fits(g, chain / g.k, chain * g.t + j)) return false;
    }
    return true;
}

}  // namespace

// A code of composite.h.
MIXAUG_API int mixaug_ipmix(const IPMixArgs* args) {
    const IPMixArgs& g = *args;
    if (g.rows == 0) return MIXAUG_DONE;
    if (!mixaug_record::sizes_fit(g)) return MIXAUG_BAD_ARGUMENT;
    if (!record_fits(g)) return MIXAUG_BAD_RECORD;
    std::atomic<i64> next{0};
    std::atomic<int> failed{MIXAUG_DONE};
    const size_t size = static_cast<size_t>(g.channels) * g.height * g.width;
    const RunRow run_row = run_row_here();
    auto work = [&]() {
        try {
            Scratch s;
            s.base.resize(size);
            s.spare.resize(size);
            s.source.resize(size);
            s.chain.assign(static_cast<size_t>(g.k), std::vector<u8>(size));
            // Eight images a turn: few turns at 32 px, and no long tail at 224.
            const i64 turn = std::max<i64>(1, std::min<i64>(8, g.rows / (4 * std::max<i64>(1, g.threads))));
            for (i64 from = next.fetch_add(turn); from < g.rows; from = next.fetch_add(turn))
                for (i64 r = from; r < std::min(from + turn, g.rows); r++) run_row(g, r, s);
        } catch (const std::bad_alloc&) {
            failed = MIXAUG_NO_MEMORY;
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (i64 i = 1; i < std::min(g.threads, g.rows); i++) helpers.emplace_back(work);
    } catch (const std::exception&) {
        // No thread to be had: the calling thread does the rest.
    }
    work();
    for (auto& h : helpers) h.join();
    return failed;
}
