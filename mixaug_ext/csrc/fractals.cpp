// Escape-time fractals on the CPU: the kernels of mixaug/mixing_sets/fractals/kernels.py, bit for bit.
//
// numba needs half a minute to compile them at the first use; here they are there at once. What each function does is
// said there, and the names are the same. Every operation is an IEEE plus, minus, times, divide or square root in the
// order written there (-ffp-contract=off), so both forms, and all instruction sets, make the same picture.
//
// The samples in flight are lanes of one flat array, value k of lane i at k * LANES + i, and are followed in vectors of
// GCC's (fractals_render.h, compiled for each instruction set): its vectoriser gives up on loops with this many selects
// between truth values, which made them 4.5 times slower than numba's.

#include "composite.h"  // MIXAUG_API
#include "isa.h"

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>

#if defined(__x86_64__) && defined(__GNUC__)
#define MIXAUG_X86
#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors are passed between inlined functions only
#endif

namespace {

using u8 = std::uint8_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

enum Family : i64 { POWER, PHOENIX, POLE, NEWTON };
// Columns of `ints` and of `numbers`, see draws.py; what the latter has behind its 42 floats.
enum : int { FAMILY, DEGREE, POLE_POWER, PARAMETER_PLANE, FOLD, CONJ };
enum : int { SHAPE = 42, REACH = 47, ONE, TWO, TINY, ESCAPE, TOLERANCE, RETURN, REGULAR, EIGHT, FAR_AWAY };

constexpr int LANES = 256, VALUES = 17, BLOCK = 4, SHORT_BLOCK = 2, TABLE = 1024;
enum : int {
    X = 0, Y = LANES, CX = 2 * LANES, CY = 3 * LANES, OX = 4 * LANES, OY = 5 * LANES, NEAR = 6 * LANES,
    WHEN = 7 * LANES, TOTAL = 8 * LANES, COUNT = 9 * LANES, HU = 10 * LANES, HV = 11 * LANES, SX = 12 * LANES,
    SY = 13 * LANES, SAVED = 14 * LANES, NEXT = 15 * LANES, MARK = 16 * LANES
};

template <class T> struct Complex { T x, y; };

template <class T> struct Trap { T x, y, ux, uy, side, low, high, round, radius, reach, far; };

template <class T> struct Stripe { T ux, uy, harmonic, one, tiny; };

// Mirrors mixaug_ext/_fractals.py: 64-bit words in this order.
struct RenderArgs {
    const i64* ints;         // (7,)
    const double* floats;    // (42,)
    const void* numbers;     // (57,) float32 or float64, the type of the orbits
    const float* colouring;  // (42,)
    const double* palettes;  // (2, 256, 3)
    const u8* bitmap;        // (64, 64, 4)
    u8* out;                 // (3, rows, size), rows side by side, planes `plane` apart
    i64 plane, size, rows, first, samples, limit, image, deep;
};

}  // namespace

#define MIXAUG_BYTES 16
namespace {
namespace generic {
#include "fractals_render.h"
}
}  // namespace
#undef MIXAUG_BYTES

#if defined(MIXAUG_X86)
#pragma GCC push_options
#pragma GCC target("avx2")
#define MIXAUG_BYTES 32
namespace {
namespace avx2 {
#include "fractals_render.h"
}
}  // namespace
#undef MIXAUG_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl")
#define MIXAUG_BYTES 64
namespace {
namespace avx512 {
#include "fractals_render.h"
}
}  // namespace
#undef MIXAUG_BYTES
#pragma GCC pop_options
#endif

namespace {

using Render = void (*)(const RenderArgs&, float*, i64, float*, i32*);

Render chosen_render() {
#if defined(MIXAUG_X86)
    if (mixaug::isa() >= mixaug::Isa::avx512) return avx512::render;
    if (mixaug::isa() >= mixaug::Isa::avx2) return avx2::render;
#endif
    return generic::render;
}

// --- where to look

i64 escape_count(const i64* ints, const double* k, double px, double py, i64 limit) {
    const bool plane = ints[PARAMETER_PLANE] == 1;
    double a = plane ? k[5] : px, b = plane ? k[6] : py, oa = 0.0, ob = 0.0;
    const double cx = plane ? px : k[5], cy = plane ? py : k[6];
    for (i64 step = 1; step <= limit; step++) {
        if (ints[FAMILY] == NEWTON) {
            const Complex<double> change = generic::newton_step(k + 30, k[7], k[8], a, b, 0.0, k[REGULAR]);
            const double p = (a - change.x) + cx, q = (b - change.y) + cy, da = p - a, db = q - b;
            a = p;
            b = q;
            if (!(da * da + db * db > k[TOLERANCE])) return step;
            continue;
        }
        Complex<double> p = generic::power(ints[DEGREE], a, b);
        if (ints[FAMILY] == POLE) {
            const Complex<double> r = generic::pole(ints[POLE_POWER], a, b, cx, cy, k[TINY]);
            p = {p.x + r.x, p.y + r.y};
        } else {
            p.y = ints[FOLD] == 1 ? std::fabs(p.y) : p.y;
            p.y = ints[CONJ] == 1 ? -p.y : p.y;
            p = {p.x + cx, p.y + cy};
        }
        if (ints[FAMILY] == PHOENIX) p = {p.x + (k[7] * oa - k[8] * ob), p.y + (k[7] * ob + k[8] * oa)};
        oa = a;
        ob = b;
        a = p.x;
        b = p.y;
        if (!(a * a + b * b <= k[ESCAPE])) return step;
    }
    return limit;
}

}  // namespace

// Renders rows of a picture. Nothing is written when it returns MIXAUG_NO_MEMORY or MIXAUG_BAD_ARGUMENT.
MIXAUG_API int mixaug_fractal_rows(const RenderArgs* args) {
    const RenderArgs& g = *args;
    if (g.size < 1 || g.rows < 1 || g.samples < 1 || g.limit < 1) return MIXAUG_BAD_ARGUMENT;
    const i64 side = g.size * g.samples, samples = g.rows * g.samples * side;
    const std::unique_ptr<float[]> orbit(new (std::nothrow) float[10 * samples]);
    const std::unique_ptr<float[]> memory(new (std::nothrow) float[9 * side + 6 * TABLE + 3 * g.size]);
    const std::unique_ptr<i32[]> whole(new (std::nothrow) i32[2 * side]);
    if (!orbit || !memory || !whole) return MIXAUG_NO_MEMORY;
    static const Render render_rows = chosen_render();
    render_rows(g, orbit.get(), samples, memory.get(), whole.get());
    return MIXAUG_DONE;
}

// A point of the plane where the escape count crosses `wanted`, between the slowest and fastest of `count` candidates
// (count, 2): written to `point` (2,).
MIXAUG_API void mixaug_fractal_boundary(const i64* ints, const double* numbers, const double* candidates, i64 count,
                                        i64 wanted, i64 limit, double* point) {
    i64 best = 0, worst = 0, most = -1, least = limit + 1;
    for (i64 i = 0; i < count; i++) {
        const i64 steps = escape_count(ints, numbers, candidates[2 * i], candidates[2 * i + 1], limit);
        if (steps > most) best = i, most = steps;
        if (steps < least) worst = i, least = steps;
    }
    const i64 level = wanted < most ? wanted : most;
    double ax = candidates[2 * best], ay = candidates[2 * best + 1];
    double bx = candidates[2 * worst], by = candidates[2 * worst + 1];
    for (int i = 0; i < 40; i++) {
        const double mx = 0.5 * (ax + bx), my = 0.5 * (ay + by);
        if (escape_count(ints, numbers, mx, my, limit) >= level) ax = mx, ay = my;
        else bx = mx, by = my;
    }
    point[0] = ax;
    point[1] = ay;
}
