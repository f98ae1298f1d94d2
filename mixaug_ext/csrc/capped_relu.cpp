// ReLU with a cap on the CPU: one pass forward; one pass backward, which also sums the gradient of the caps.
//
// Two walks over memory. Where a cap has a long run of elements (channels of large images, one cap for all) a piece is
// part of a run. Elsewhere the caps repeat with a period (features, channels_last, neurons, small images): they are
// written out for a period of at least PERIOD elements, and a piece is some columns of some of its repetitions.
// Each piece leaves a partial sum of its own, and these are added in their order: the sum does not depend on the number
// of threads, nor on the width of the vectors, because LANES sums are kept whatever the width.
//
// Threads are started per call and joined before it returns, as in ipmix.cpp.

#include "capped_relu.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <new>
#include <numeric>
#include <thread>
#include <vector>

#if defined(__GNUC__)
#define INLINE __attribute__((always_inline)) inline
#else
#define INLINE inline
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#define MIXAUG_X86
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#endif

namespace {

using namespace mixaug;
using i64 = std::int64_t;

constexpr i64 LANES = 64;            // sums of a run, so that each vector of additions waits for none before it
constexpr i64 RUN = 128;             // elements of a cap from which on a run is worth its own sum
constexpr i64 PIECE = 8192;          // elements of a run that a piece has at most
constexpr i64 PERIOD = 1024;         // elements that a period is repeated to
constexpr i64 COLUMNS = 2048;        // of a piece: their caps and sums stay in the first cache
constexpr i64 BLOCK = 128 * 1024;    // elements of a piece of columns, about
constexpr i64 REPEATS = 512;         // that a piece of columns has at most, for the rounding of its float32 sums

// ------------------------------------------------------------------ a run of elements

// Plain loops that the compiler turns into vectors. `SAME`: one cap for all, else one for each element.
template <typename F, bool SAME>
INLINE void forward_run(const typename F::Int* x, const typename F::Int* __restrict caps, typename F::Int* out, i64 n) {
    const typename F::Int one = caps[0];
    if (x == out) {  // said apart, so that the compiler knows how the two overlap
        for (i64 i = 0; i < n; i++) out[i] = clip<F>(out[i], SAME ? one : caps[i]);
        return;
    }
    const typename F::Int* __restrict from = x;
    typename F::Int* __restrict to = out;
    for (i64 i = 0; i < n; i++) to[i] = clip<F>(from[i], SAME ? one : caps[i]);
}

template <typename F, bool OUT, bool SUM>
INLINE void backward_one(typename F::Int grad, typename F::Int kept, typename F::Int cap, typename F::Int* out, float* sum) {
    using Int = typename F::Int;
    // Adding 0 changes no sum: none of them is ever -0.
    if (SUM) *sum += widen(F(), capped<F>(kept, cap) ? grad : Int(0));
    if (OUT) *out = blocked<F>(kept, cap) ? Int(0) : grad;
}

// `sums`: with a cap for each element one for each; else LANES of them, element i in lane i % LANES.
template <typename F, bool SAME, bool OUT, bool SUM>
INLINE void backward_run(const typename F::Int* __restrict grad, const typename F::Int* __restrict kept,
                         const typename F::Int* __restrict caps, typename F::Int* __restrict out, float* __restrict sums,
                         i64 n) {
    if (!SAME) {
        for (i64 i = 0; i < n; i++) backward_one<F, OUT, SUM>(grad[i], kept[i], caps[i], out + i, sums + i);
        return;
    }
    const typename F::Int cap = caps[0];
    float lanes[LANES] = {};
    i64 i = 0;
    for (; i + LANES <= n; i += LANES)
        for (i64 k = 0; k < LANES; k++) backward_one<F, OUT, SUM>(grad[i + k], kept[i + k], cap, out + i + k, lanes + k);
    for (i64 k = 0; i + k < n; k++) backward_one<F, OUT, SUM>(grad[i + k], kept[i + k], cap, out + i + k, lanes + k);
    if (SUM) std::copy(lanes, lanes + LANES, sums);
}

template <typename F>
struct Runs {
    using Int = typename F::Int;
    using Forward = void (*)(const Int*, const Int*, Int*, i64);
    using Backward = void (*)(const Int*, const Int*, const Int*, Int*, float*, i64);
    Forward forward[2];    // [a cap for each]
    Backward backward[6];  // [3 (a cap for each) + 0 gradient of x, 1 of the caps, 2 of both]
};

// The same code for several instruction sets.
#define MIXAUG_RUNS(name, target)                                                                                \
    template <typename F, bool SAME>                                                                             \
    target void forward_##name(const typename F::Int* x, const typename F::Int* caps, typename F::Int* out, i64 n) { \
        forward_run<F, SAME>(x, caps, out, n);                                                                   \
    }                                                                                                            \
    template <typename F, bool SAME, bool OUT, bool SUM>                                                         \
    target void backward_##name(const typename F::Int* grad, const typename F::Int* kept,                        \
                                const typename F::Int* caps, typename F::Int* out, float* sums, i64 n) {         \
        backward_run<F, SAME, OUT, SUM>(grad, kept, caps, out, sums, n);                                         \
    }                                                                                                            \
    template <typename F>                                                                                        \
    Runs<F> runs_##name() {                                                                                      \
        return {{forward_##name<F, true>, forward_##name<F, false>},                                             \
                {backward_##name<F, true, true, false>, backward_##name<F, true, false, true>,                   \
                 backward_##name<F, true, true, true>, backward_##name<F, false, true, false>,                   \
                 backward_##name<F, false, false, true>, backward_##name<F, false, true, true>}};                \
    }
MIXAUG_RUNS(plain, )
#if defined(MIXAUG_X86)
MIXAUG_RUNS(avx2, AVX2)
MIXAUG_RUNS(avx512, AVX512)
#endif

template <typename F>
Runs<F> runs_for([[maybe_unused]] i64 vectors) {
#if defined(MIXAUG_X86)
    static const bool has512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    static const bool has2 = __builtin_cpu_supports("avx2");
    if (vectors >= 2 && has512) return runs_avx512<F>();
    if (vectors >= 1 && has2) return runs_avx2<F>();
#endif
    return runs_plain<F>();
}

// ------------------------------------------------------------------ pieces

// Calls work(i) for i in [0, count), `turn` of them at a time a thread.
template <typename Work>
void in_turns(i64 count, i64 turn, i64 threads, const Work& work) {
    std::atomic<i64> next{0};
    auto loop = [&]() {
        for (i64 from = next.fetch_add(turn); from < count; from = next.fetch_add(turn))
            for (i64 i = from; i < std::min(from + turn, count); i++) work(i);
    };
    std::vector<std::thread> helpers;
    try {
        for (i64 i = 1; i < std::min(threads, (count + turn - 1) / turn); i++) helpers.emplace_back(loop);
    } catch (const std::exception&) {
        // No thread or memory to be had: the calling thread does the rest.
    }
    loop();
    for (auto& helper : helpers) helper.join();
}

// Elements that a thread takes at a time: taking a turn costs nothing beside them.
constexpr i64 TURN = 64 * 1024;

int which(const CappedReLUArgs& g) { return !g.grad_cap ? 0 : (g.out ? 2 : 1); }  // of Runs::backward

template <typename F, bool BACKWARD>
void long_runs(const CappedReLUArgs& g, const Runs<F>& runs) {
    using Int = typename F::Int;
    const Int *in = static_cast<const Int*>(g.in), *kept = static_cast<const Int*>(g.kept);
    Int* out = static_cast<Int*>(g.out);
    const i64 each = (g.inner + PIECE - 1) / PIECE, length = std::min(g.inner, PIECE), pieces = g.outer * g.caps * each;
    std::vector<float> partials(BACKWARD && g.grad_cap ? static_cast<size_t>(pieces) : 0);
    const auto run = runs.backward[which(g)];
    in_turns(pieces, std::max<i64>(1, TURN / length), g.threads, [&](i64 piece) {
        const i64 row = piece / each, from = (piece - row * each) * PIECE, at = row * g.inner + from;
        const i64 n = std::min(PIECE, g.inner - from);
        const float m = g.cap[row % g.caps];
        if (!BACKWARD) {
            const Int cap = cap_bits<F>(m);
            runs.forward[0](in + at, &cap, out + at, n);
            return;
        }
        const Int cap = active_cap_bits<F>(m);
        alignas(64) float sums[LANES] = {};
        run(in + at, kept + at, &cap, out ? out + at : nullptr, sums, n);
        if (partials.empty()) return;
        for (i64 half = LANES / 2; half > 0; half /= 2)
            for (i64 k = 0; k < half; k++) sums[k] += sums[k + half];
        partials[static_cast<size_t>(piece)] = sums[0];
    });
    if (!BACKWARD || !g.grad_cap) return;
    for (i64 c = 0; c < g.caps; c++) {
        double sum = 0.0;
        for (i64 o = 0; o < g.outer; o++) {
            const float* of_row = partials.data() + (o * g.caps + c) * each;
            for (i64 k = 0; k < each; k++) sum += static_cast<double>(of_row[k]);
        }
        g.grad_cap[c] = static_cast<float>(sum);
    }
}

template <typename F, bool BACKWARD>
void columns(const CappedReLUArgs& g, const Runs<F>& runs) {
    using Int = typename F::Int;
    const Int *in = static_cast<const Int*>(g.in), *kept = static_cast<const Int*>(g.kept);
    Int* out = static_cast<Int*>(g.out);
    const i64 once = g.caps * g.inner, total = g.outer * once;
    // Repeated to whole vectors where there are that many.
    const i64 whole = LANES / std::gcd(once, LANES);
    i64 times = (PERIOD + once - 1) / once;
    times = std::min((times + whole - 1) / whole * whole, g.outer);
    const i64 period = once * times, rows = (total + period - 1) / period;
    std::vector<Int> caps(static_cast<size_t>(period));
    for (i64 c = 0, at = 0; c < g.caps; c++) {
        const Int cap = BACKWARD ? active_cap_bits<F>(g.cap[c]) : cap_bits<F>(g.cap[c]);
        for (i64 k = 0; k < g.inner; k++) caps[static_cast<size_t>(at++)] = cap;
    }
    for (i64 at = once; at < period; at++) caps[static_cast<size_t>(at)] = caps[static_cast<size_t>(at - once)];

    const i64 wide = std::min(COLUMNS, period), across = (period + wide - 1) / wide;
    const i64 tall = std::clamp<i64>(BLOCK / wide, 1, REPEATS), down = (rows + tall - 1) / tall;
    const bool sum = BACKWARD && g.grad_cap;
    std::vector<float> partials(sum ? static_cast<size_t>(down * period) : 0);
    const auto run = runs.backward[3 + which(g)];
    in_turns(down * across, 1, g.threads, [&](i64 piece) {
        const i64 band = piece / across, from = (piece - band * across) * wide;
        const i64 n = std::min(wide, period - from);
        float* sums = sum ? partials.data() + band * period + from : nullptr;
        for (i64 row = band * tall; row < std::min(rows, (band + 1) * tall); row++) {
            const i64 at = row * period + from, here = std::min(n, total - at);
            if (here <= 0) break;
            const Int* cap = caps.data() + from;
            if (BACKWARD) run(in + at, kept + at, cap, out ? out + at : nullptr, sums, here);
            else runs.forward[1](in + at, cap, out + at, here);
        }
    });
    if (!sum) return;
    for (i64 c = 0; c < g.caps; c++) {
        double all = 0.0;
        for (i64 from = c * g.inner; from < down * period; from += once)
            for (i64 k = 0; k < g.inner; k++) all += static_cast<double>(partials[static_cast<size_t>(from + k)]);
        g.grad_cap[c] = static_cast<float>(all);
    }
}

template <typename F, bool BACKWARD>
void work(const CappedReLUArgs& g) {
    const Runs<F> runs = runs_for<F>(g.vectors);
    if (g.inner >= RUN || g.outer * g.caps == 1) long_runs<F, BACKWARD>(g, runs);
    else columns<F, BACKWARD>(g, runs);
}

template <bool BACKWARD>
int dispatch(const CappedReLUArgs& g) {
    if (g.outer <= 0 || g.caps <= 0 || g.inner <= 0) {
        if (BACKWARD && g.grad_cap) std::fill(g.grad_cap, g.grad_cap + std::max<i64>(g.caps, 0), 0.0f);
        return MIXAUG_DONE;
    }
    try {
        switch (g.dtype) {
            case MIXAUG_F16: work<F16, BACKWARD>(g); break;
            case MIXAUG_BF16: work<BF16, BACKWARD>(g); break;
            case MIXAUG_F32: work<F32, BACKWARD>(g); break;
            default: return MIXAUG_BAD_ARGUMENT;
        }
    } catch (const std::bad_alloc&) {
        return MIXAUG_NO_MEMORY;
    }
    return MIXAUG_DONE;
}

}  // namespace

MIXAUG_API int mixaug_capped_relu(const CappedReLUArgs* args) { return dispatch<false>(*args); }
MIXAUG_API int mixaug_capped_relu_backward(const CappedReLUArgs* args) { return dispatch<true>(*args); }
