// ReLU with a cap on the CPU: one pass forward; one pass backward, which also sums the gradient of the caps.
//
// Two walks over memory. Where a cap has a long run of elements (channels of large images, one cap for all) a piece is
// part of a run. Elsewhere the caps repeat with a period (features, channels_last, neurons, small images): they are
// written out for a period of at least PERIOD elements, and a piece is some columns of some of its repetitions.
// Each piece leaves a partial sum of its own, and these are added in their order: the sum does not depend on the number
// of threads, nor on the width of the vectors, because LANES sums are kept whatever the width.
//
// Threads are started per call, as in ipmix.cpp: a forked loader worker inherits no half-dead pool.

#include "capped_relu.h"
#include "isa.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
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
constexpr i64 RUN = 512;             // elements of a cap from which on a run is worth its own sum
constexpr i64 PIECE = 8192;          // elements of a run that a piece has at most
constexpr i64 PERIOD = 1024;         // elements that a period is repeated to
constexpr i64 COLUMNS = 8192;        // of a piece: their caps and sums stay in the caches, a row is still a long run
constexpr i64 BLOCK = 128 * 1024;    // elements of a piece of columns, about
constexpr i64 REPEATS = 512;         // that a piece of columns has at most, for the rounding of its float32 sums

// ------------------------------------------------------------------ a run of elements

// Plain loops that the compiler turns into vectors. `SAME`: one cap for all, else one for each of `n` columns.
template <typename F, bool SAME>
INLINE void forward_run(const typename F::Int* x, const typename F::Int* __restrict caps, typename F::Int* out, i64 n,
                        i64 rows, i64 stride) {
    const typename F::Int one = caps[0];
    for (i64 row = 0; row < rows; row++) {
        if (x == out) {  // said apart, so that the compiler knows how the two overlap
            typename F::Int* __restrict both = out + row * stride;
            for (i64 i = 0; i < n; i++) both[i] = clip<F>(both[i], SAME ? one : caps[i]);
        } else {
            const typename F::Int* __restrict from = x + row * stride;
            typename F::Int* __restrict to = out + row * stride;
            for (i64 i = 0; i < n; i++) to[i] = clip<F>(from[i], SAME ? one : caps[i]);
        }
    }
}

// The gradient of x is written, the caps' share of this element returned.
template <typename F, bool OUT, bool SUM>
INLINE float backward_one(typename F::Int grad, typename F::Int kept, typename F::Int cap, typename F::Int* out) {
    using Int = typename F::Int;
    if (OUT) *out = blocked<F>(kept, cap) ? Int(0) : grad;
    // Adding 0 changes no sum: none of them is ever -0.
    return SUM ? widen(F(), capped<F>(kept, cap) ? grad : Int(0)) : 0.0f;
}

// One cap: LANES sums, element i in lane i % LANES.
template <typename F, bool OUT, bool SUM>
INLINE void backward_same(const typename F::Int* __restrict grad, const typename F::Int* __restrict kept,
                          typename F::Int cap, typename F::Int* __restrict out, float* __restrict sums, i64 n) {
    float lanes[LANES] = {};
    i64 i = 0;
    for (; i + LANES <= n; i += LANES)
        for (i64 k = 0; k < LANES; k++)
            lanes[k] += backward_one<F, OUT, SUM>(grad[i + k], kept[i + k], cap, out + i + k);
    for (i64 k = 0; i + k < n; k++) lanes[k] += backward_one<F, OUT, SUM>(grad[i + k], kept[i + k], cap, out + i + k);
    if (SUM) std::copy(lanes, lanes + LANES, sums);
}

// A cap and a sum for each of `n` columns; four rows are added up before they meet the sum.
template <typename F, bool OUT, bool SUM>
INLINE void backward_each(const typename F::Int* __restrict grad, const typename F::Int* __restrict kept,
                          const typename F::Int* __restrict caps, typename F::Int* __restrict out,
                          float* __restrict sums, i64 n, i64 rows, i64 stride) {
    constexpr auto one = backward_one<F, OUT, SUM>;
    i64 row = 0;
    for (; row + 4 <= rows; row += 4) {
        const i64 a = row * stride, b = a + stride, c = b + stride, d = c + stride;
        for (i64 i = 0; i < n; i++) {
            const float first = one(grad[a + i], kept[a + i], caps[i], out + a + i);
            const float second = one(grad[b + i], kept[b + i], caps[i], out + b + i);
            const float third = one(grad[c + i], kept[c + i], caps[i], out + c + i);
            const float fourth = one(grad[d + i], kept[d + i], caps[i], out + d + i);
            if (SUM) sums[i] += (first + second) + (third + fourth);
        }
    }
    for (; row < rows; row++) {
        const i64 a = row * stride;
        for (i64 i = 0; i < n; i++) {
            const float share = one(grad[a + i], kept[a + i], caps[i], out + a + i);
            if (SUM) sums[i] += share;
        }
    }
}

template <typename F>
struct Runs {
    using Int = typename F::Int;
    using Forward = void (*)(const Int*, const Int*, Int*, i64, i64, i64);
    using Same = void (*)(const Int*, const Int*, Int, Int*, float*, i64);
    using Each = void (*)(const Int*, const Int*, const Int*, Int*, float*, i64, i64, i64);
    Forward forward_same, forward_each;
    Same backward_same[3];  // the gradient of x, of the caps, of both
    Each backward_each[3];
};

// The same code for several instruction sets.
#define MIXAUG_RUNS(name, target)                                                                                \
    template <typename F, bool SAME, typename Int = typename F::Int>                                             \
    target void forward_##name(const Int* x, const Int* caps, Int* out, i64 n, i64 rows, i64 stride) {           \
        forward_run<F, SAME>(x, caps, out, n, rows, stride);                                                     \
    }                                                                                                            \
    template <typename F, bool OUT, bool SUM, typename Int = typename F::Int>                                    \
    target void same_##name(const Int* grad, const Int* kept, Int cap, Int* out, float* sums, i64 n) {           \
        backward_same<F, OUT, SUM>(grad, kept, cap, out, sums, n);                                               \
    }                                                                                                            \
    template <typename F, bool OUT, bool SUM, typename Int = typename F::Int>                                    \
    target void each_##name(const Int* grad, const Int* kept, const Int* caps, Int* out, float* sums, i64 n,     \
                            i64 rows, i64 stride) {                                                              \
        backward_each<F, OUT, SUM>(grad, kept, caps, out, sums, n, rows, stride);                                \
    }                                                                                                            \
    template <typename F>                                                                                        \
    Runs<F> runs_##name() {                                                                                      \
        return {forward_##name<F, true>, forward_##name<F, false>,                                               \
                {same_##name<F, true, false>, same_##name<F, false, true>, same_##name<F, true, true>},          \
                {each_##name<F, true, false>, each_##name<F, false, true>, each_##name<F, true, true>}};         \
    }
MIXAUG_RUNS(plain, )
#if defined(MIXAUG_X86)
MIXAUG_RUNS(avx2, AVX2)
MIXAUG_RUNS(avx512, AVX512)
#endif

template <typename F>
Runs<F> runs_for([[maybe_unused]] i64 vectors) {
#if defined(MIXAUG_X86)
    if (vectors >= 2 && mixaug::isa() >= mixaug::Isa::avx512) return runs_avx512<F>();
    if (vectors >= 1 && mixaug::isa() >= mixaug::Isa::avx2) return runs_avx2<F>();
#endif
    return runs_plain<F>();
}

// ------------------------------------------------------------------ pieces

// Turns that threads take, and how many of them are at one.
struct Turns {
    std::atomic<i64> next{0}, working{0};
};

// Calls work(i) for i in [0, count), `turn` of them at a time a thread. Nobody waits for a helper that has not come to
// a turn before all were taken, which took 8 ms where torch's own threads wait busily on its core: later it finds
// nothing to do, in memory of its own.
template <typename Work>
void in_turns(i64 count, i64 turn, i64 threads, const Work& work) {
    auto loop = [count, turn, &work](Turns& turns) {
        for (i64 from = turns.next.fetch_add(turn); from < count; from = turns.next.fetch_add(turn))
            for (i64 i = from; i < std::min(from + turn, count); i++) work(i);
    };
    threads = std::min(threads, (count + turn - 1) / turn);
    if (threads <= 1) {
        Turns turns;
        return loop(turns);
    }
    const auto turns = std::make_shared<Turns>();
    try {
        for (i64 i = 1; i < threads; i++)
            std::thread([loop, turns]() {
                turns->working++;  // before a turn is taken: who sees the last one taken sees this, too
                loop(*turns);
                turns->working--;
            }).detach();
    } catch (const std::exception&) {
        // No thread or memory to be had: the calling thread does the rest.
    }
    loop(*turns);
    while (turns->working > 0) std::this_thread::yield();
}

// Elements that a thread takes at a time: taking a turn costs nothing beside them.
constexpr i64 TURN = 64 * 1024;

int which(const CappedReLUArgs& g) { return !g.grad_cap ? 0 : (g.out ? 2 : 1); }  // of Runs::backward_*

template <typename F, bool BACKWARD>
void long_runs(const CappedReLUArgs& g, const Runs<F>& runs) {
    using Int = typename F::Int;
    const Int *in = static_cast<const Int*>(g.in), *kept = static_cast<const Int*>(g.kept);
    Int* out = g.out ? static_cast<Int*>(g.out) : const_cast<Int*>(kept);  // then it is not written
    const i64 each = (g.inner + PIECE - 1) / PIECE, length = std::min(g.inner, PIECE), pieces = g.outer * g.caps * each;
    std::vector<float> partials(BACKWARD && g.grad_cap ? static_cast<size_t>(pieces) : 0);
    const auto backward = runs.backward_same[which(g)];
    in_turns(pieces, std::max<i64>(1, TURN / length), g.threads, [&](i64 piece) {
        const i64 row = piece / each, from = (piece - row * each) * PIECE, at = row * g.inner + from;
        const i64 n = std::min(PIECE, g.inner - from);
        const float m = g.cap[row % g.caps];
        if (!BACKWARD) {
            const Int cap = cap_bits<F>(m);
            runs.forward_same(in + at, &cap, out + at, n, 1, 0);
            return;
        }
        float sums[LANES];
        backward(in + at, kept + at, active_cap_bits<F>(m), out + at, sums, n);
        if (partials.empty()) return;
        for (i64 half = LANES / 2; half > 0; half /= 2)
            for (i64 k = 0; k < half; k++) sums[k] += sums[k + half];
        partials[static_cast<size_t>(piece)] = sums[0];
    });
    if (partials.empty()) return;
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
    Int* out = g.out ? static_cast<Int*>(g.out) : const_cast<Int*>(kept);  // then it is not written
    const i64 once = g.caps * g.inner, total = g.outer * once;
    // Repeated to whole vectors where there are that many.
    const i64 whole = LANES / std::gcd(once, LANES);
    i64 times = (PERIOD + once - 1) / once;
    times = std::min((times + whole - 1) / whole * whole, g.outer);
    const i64 period = once * times, rows = (total + period - 1) / period;
    std::vector<Int> caps(static_cast<size_t>(period));
    for (i64 c = 0; c < g.caps; c++) {
        const Int cap = BACKWARD ? active_cap_bits<F>(g.cap[c]) : cap_bits<F>(g.cap[c]);
        std::fill_n(caps.data() + c * g.inner, g.inner, cap);
    }
    for (i64 at = once; at < period; at += once) std::copy_n(caps.data(), once, caps.data() + at);

    const i64 wide = std::min(BACKWARD ? COLUMNS : 4 * COLUMNS, period), across = (period + wide - 1) / wide;
    const i64 tall = std::clamp<i64>(BLOCK / wide, 4, REPEATS), down = (rows + tall - 1) / tall;
    const bool sum = BACKWARD && g.grad_cap;
    std::vector<float> partials(sum ? static_cast<size_t>(down * period) : 0);
    const auto backward = runs.backward_each[which(g)];
    in_turns(down * across, 1, g.threads, [&](i64 piece) {
        const i64 band = piece / across, from = (piece - band * across) * wide, n = std::min(wide, period - from);
        const Int* cap = caps.data() + from;
        float* sums = sum ? partials.data() + band * period + from : nullptr;
        auto some = [&](i64 row, i64 count, i64 length) {
            const i64 at = row * period + from;
            if (BACKWARD) backward(in + at, kept + at, cap, out + at, sums, length, count, period);
            else runs.forward_each(in + at, cap, out + at, length, count, period);
        };
        // The last repetition may be cut short.
        const i64 first = band * tall, last = std::min(rows, first + tall), cut = last == rows ? last - 1 : last;
        some(first, cut - first, n);
        if (cut < last) some(cut, 1, std::clamp<i64>(total - (cut * period + from), 0, n));
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
