// ReLU with a cap on a GPU: one launch forward, one backward, and one that adds up the gradient of the caps.
//
// The caps repeat in memory with a period of `caps * inner` elements, itself repeated where it is short. A thread keeps
// a vector of columns of that period, 16 bytes where the addresses allow it, and goes down some of its rows: the caps
// are read once, neighbouring threads read neighbouring vectors, and the gradients of the caps are summed in registers.
// Each thread leaves its sums in a place of its own, and a second kernel adds them in a fixed order: no atomics, so the
// same bits every time.

#include "capped_relu.h"
#include "cuda_common.h"

namespace {

using namespace mixaug;
using i64 = std::int64_t;

constexpr int THREADS = 256;
constexpr int IN_FLIGHT = 4;             // rows whose loads are issued before the first result is needed
constexpr i64 BLOCKS = 1 << 16;          // at most; threads take further columns in turn
constexpr i64 COLUMNS = 1 << 14;         // elements that a short period is repeated to
constexpr i64 RUNNING = 1 << 17;         // threads that keep a GPU busy

template <typename T, int N>
struct alignas(sizeof(T) * N) Vector { T v[N]; };

// How the work is cut. Vectors are counted, not elements, but for `period` and `total`.
struct Cut {
    i64 period, total;  // elements: of the period with its repetitions, of the tensor
    i64 rows;           // of the period in the tensor, the last one may be short
    i64 across;         // vectors of a row
    i64 bands, tall;    // of rows, and the rows of each
    i64 sums;           // partial sums of a vector: 1 where all its elements have one cap
};

Cut cut_of(const CappedReLUArgs& g, i64 n) {
    Cut c;
    const i64 once = g.caps * g.inner;
    c.total = g.outer * once;
    if (g.caps == 1) {  // one cap has no period: any will do
        const i64 all = (c.total + n - 1) / n;
        c.across = all < RUNNING / 2 ? all : RUNNING / 2;
        c.period = c.across * n;
    } else {
        i64 times = once < COLUMNS ? COLUMNS / once : 1;
        while (times < g.outer && once * times % n != 0) times++;
        if (times > g.outer) times = g.outer;
        c.period = once * times;
        c.across = c.period < n ? 1 : c.period / n;  // a width that does not fit is only asked for its room
    }
    c.rows = (c.total + c.period - 1) / c.period;
    const i64 wanted = (RUNNING + c.across - 1) / c.across, most = (c.rows + 7) / 8;
    c.bands = wanted < most ? wanted : most;
    c.tall = (c.rows + c.bands - 1) / c.bands;
    c.bands = (c.rows + c.tall - 1) / c.tall;
    c.sums = g.caps == 1 || g.inner % n == 0 ? 1 : n;
    return c;
}

// One pass over the tensors, and the first stage of the sum: `Index` is of 32 bits where they are enough.
template <typename F, int N, bool BACKWARD, typename Index>
__global__ void __launch_bounds__(THREADS) capped_relu_kernel(CappedReLUArgs g, Cut c) {
    using Int = typename F::Int;
    using V = Vector<Int, N>;
    const V* in = static_cast<const V*>(g.in);
    const V* kept = static_cast<const V*>(g.kept);
    V* out = static_cast<V*>(g.out);
    const Index caps = static_cast<Index>(g.caps), inner = static_cast<Index>(g.inner);
    const Index across = static_cast<Index>(c.across), work = static_cast<Index>(c.across * c.bands);
    const Index vectors = static_cast<Index>(c.total / N), stride = static_cast<Index>(gridDim.x) * THREADS;
    for (Index w = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x; w < work; w += stride) {
        const Index band = w / across, column = w - band * across;
        Int cap[N];
        float sum[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float m = g.cap[(column * N + i) / inner % caps];
            cap[i] = BACKWARD ? active_cap_bits<F>(m) : cap_bits<F>(m);
            sum[i] = 0.0f;
        }
        const Index first = band * static_cast<Index>(c.tall);
        const Index left = static_cast<Index>(c.rows) - first;
        const Index count = left < static_cast<Index>(c.tall) ? left : static_cast<Index>(c.tall);
        for (Index row = 0; row < count; row += IN_FLIGHT) {
            V values[IN_FLIGHT], outputs[IN_FLIGHT];
#pragma unroll
            for (int k = 0; k < IN_FLIGHT; k++) {
                const Index at = (first + row + k) * across + column;
                if (row + k >= count || at >= vectors) continue;
                values[k] = in[at];
                if (BACKWARD) outputs[k] = kept[at];
            }
#pragma unroll
            for (int k = 0; k < IN_FLIGHT; k++) {
                const Index at = (first + row + k) * across + column;
                if (row + k >= count || at >= vectors) continue;
                V result;
#pragma unroll
                for (int i = 0; i < N; i++) {
                    if (BACKWARD) {
                        if (capped<F>(outputs[k].v[i], cap[i])) sum[i] += widen(F(), values[k].v[i]);
                        result.v[i] = blocked<F>(outputs[k].v[i], cap[i]) ? Int(0) : values[k].v[i];
                    } else {
                        result.v[i] = clip<F>(values[k].v[i], cap[i]);
                    }
                }
                if (!BACKWARD || out) out[at] = result;
            }
        }
        if (!BACKWARD || !g.grad_cap) continue;
        if (c.sums == 1) {
            float all = 0.0f;
#pragma unroll
            for (int i = 0; i < N; i++) all += sum[i];
            g.partials[w] = all;
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) g.partials[static_cast<i64>(w) * N + i] = sum[i];
        }
    }
}

// The second stage: a block a cap adds all partial sums of it, in an order that nothing changes.
__global__ void __launch_bounds__(THREADS) sum_kernel(CappedReLUArgs g, i64 width, i64 bands, i64 run) {
    __shared__ float sums[THREADS];
    const int thread = static_cast<int>(threadIdx.x);
    const i64 once = g.caps * run, repeats = bands * width / once;
    for (i64 cap = blockIdx.x; cap < g.caps; cap += gridDim.x) {
        float sum = 0.0f;
        for (i64 i = thread; i < repeats * run; i += THREADS) {
            const i64 repeat = i / run;
            sum += g.partials[repeat * once + cap * run + (i - repeat * run)];
        }
        sums[thread] = sum;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (thread < half) sums[thread] += sums[thread + half];
            __syncthreads();
        }
        if (thread == 0) g.grad_cap[cap] = sums[0];
        __syncthreads();  // the next cap takes the shared sums
    }
}

template <typename F, int N, bool BACKWARD>
int launch(const CappedReLUArgs& g) {
    const Cut c = cut_of(g, N);
    const i64 needed = (c.across * c.bands + THREADS - 1) / THREADS;
    const unsigned blocks = static_cast<unsigned>(needed < BLOCKS ? needed : BLOCKS);
    // Room for the index that leaves the loops, too.
    const bool small = c.total + c.period * IN_FLIGHT < (i64{1} << 30) && g.caps * g.inner < (i64{1} << 30);
    int error = 0;
    using Small = std::uint32_t;
    if (small) error = MIXAUG_LAUNCH((capped_relu_kernel<F, N, BACKWARD, Small>), blocks, THREADS, g.stream, g, c);
    else error = MIXAUG_LAUNCH((capped_relu_kernel<F, N, BACKWARD, i64>), blocks, THREADS, g.stream, g, c);
    if (error || !BACKWARD || !g.grad_cap) return error;
    const i64 width = c.across * c.sums, run = g.caps == 1 ? width : g.inner / (c.sums == 1 ? N : 1);
    const i64 sum_blocks = g.caps < BLOCKS ? g.caps : BLOCKS;
    return MIXAUG_LAUNCH((sum_kernel), sum_blocks, THREADS, g.stream, g, width, c.bands, run);
}

// Elements of the widest vector that every address allows and that a row of the period is a whole number of.
template <typename F>
i64 vector_of(const CappedReLUArgs& g) {
    constexpr i64 widest = 16 / sizeof(typename F::Int);
    for (const void* p : {g.in, g.kept, static_cast<const void*>(g.out)})
        if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) return 1;
    const Cut c = cut_of(g, widest);
    return c.total % widest == 0 && c.period % widest == 0 ? widest : 1;
}

template <typename F, bool BACKWARD>
int of_width(const CappedReLUArgs& g) {
    if (vector_of<F>(g) == 1) return launch<F, 1, BACKWARD>(g);
    return launch<F, 16 / sizeof(typename F::Int), BACKWARD>(g);
}

template <bool BACKWARD>
int dispatch(const CappedReLUArgs& g) {
    if (g.caps <= 0 || g.outer * g.inner < 0) return MIXAUG_DONE;
    int error = 0;
    if (g.outer * g.inner == 0) {
        const i64 blocks = g.caps < BLOCKS ? g.caps : BLOCKS, none = 0, one = 1;
        if (BACKWARD && g.grad_cap)
            error = MIXAUG_LAUNCH((sum_kernel), blocks, THREADS, g.stream, g, none, none, one);
        return error ? MIXAUG_CUDA_ERROR + error : MIXAUG_DONE;
    }
    switch (g.dtype) {
        case MIXAUG_F16: error = of_width<F16, BACKWARD>(g); break;
        case MIXAUG_BF16: error = of_width<BF16, BACKWARD>(g); break;
        case MIXAUG_F32: error = of_width<F32, BACKWARD>(g); break;
        default: return MIXAUG_BAD_ARGUMENT;
    }
    return error ? MIXAUG_CUDA_ERROR + error : MIXAUG_DONE;
}

}  // namespace

// Floats of `partials` that the backward pass needs at most, whatever the addresses are.
MIXAUG_API std::int64_t mixaug_capped_relu_partials(const CappedReLUArgs* args) {
    const CappedReLUArgs& g = *args;
    if (g.outer <= 0 || g.caps <= 0 || g.inner <= 0) return 0;
    i64 most = 0;
    for (const i64 n : {i64{1}, i64{4}, i64{8}}) {
        const Cut c = cut_of(g, n);
        const i64 floats = c.across * c.sums * c.bands;
        if (floats > most) most = floats;
    }
    return most;
}

MIXAUG_API int mixaug_capped_relu_cuda(const CappedReLUArgs* args) { return dispatch<false>(*args); }
MIXAUG_API int mixaug_capped_relu_backward_cuda(const CappedReLUArgs* args) { return dispatch<true>(*args); }
