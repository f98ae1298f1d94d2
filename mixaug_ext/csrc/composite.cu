// Box compositing on a GPU: one launch, one pass, 16 bytes an access.
//
// An image is a flat run of planes * rows * width elements (the caller sees to that). A thread takes vectors of 16 bytes
// (fewer where the addresses are not aligned), works out as bits which of a vector's elements lie in the union, and reads
// of base, a and b just those vectors that are used. Four vectors of a thread are in flight at a time: their loads are
// issued before the first result is needed. Arithmetic as in composite.cpp; -fmad=false keeps it so.

#include "composite.h"
#include "cuda_common.h"

#if !defined(MIXAUG_CUDA_ON_CPU)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace {

using i64 = std::int64_t;
using u8 = std::uint8_t;

constexpr int THREADS = 256;
constexpr int IN_FLIGHT = 4;
constexpr int MAX_BOXES = 512;  // of an image, in shared memory (8 KB)

struct Box { int x0, y0, x1, y1; };  // x in elements

__device__ inline float load(u8 v) { return static_cast<float>(v); }
__device__ inline float load(float v) { return v; }
__device__ inline float load(__half v) { return __half2float(v); }
__device__ inline float load(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline void save(float v, u8* out) { *out = static_cast<u8>(__float2int_rn(v)); }
__device__ inline void save(float v, float* out) { *out = v; }
__device__ inline void save(float v, __half* out) { *out = __float2half_rn(v); }
__device__ inline void save(float v, __nv_bfloat16* out) { *out = __float2bfloat16_rn(v); }

template <typename T, int N>
struct alignas(sizeof(T) * N) Vector { T v[N]; };

__device__ inline int low(int p, int q) { return p < q ? p : q; }
__device__ inline int high(int p, int q) { return p > q ? p : q; }

// Which of `n` elements from (x, y) on, all in one row, lie in the union: bit i for element x + i.
__device__ inline unsigned row_bits(const Box* boxes, int count, int x, int y, int n) {
    unsigned bits = 0;
    for (int i = 0; i < count; i++) {
        const Box b = boxes[i];
        const int from = high(b.x0 - x, 0), to = low(b.x1 - x, n);
        if (y >= b.y0 && y < b.y1 && from < to) bits |= ((1u << to) - 1u) & ~((1u << from) - 1u);
    }
    return bits;
}

// The same for elements that may run over into the following rows and planes.
__device__ inline unsigned element_bits(const Box* boxes, int count, int x, int y, int n, int width, int rows) {
    unsigned bits = 0;
    for (int done = 0; done < n;) {
        const int take = low(n - done, width - x);
        bits |= row_bits(boxes, count, x, y, take) << done;
        done += take;
        x = 0;
        y = y + 1 < rows ? y + 1 : 0;
    }
    return bits;
}

// Elements of row y in the union, without sorting: from where the last run ended to the furthest end, or to the next start.
__device__ inline int row_length(const Box* boxes, int count, int y, int width) {
    int covered = 0;
    for (int x = 0; x < width;) {
        int end = x, next = width;
        for (int i = 0; i < count; i++) {
            const Box b = boxes[i];
            if (y < b.y0 || y >= b.y1) continue;
            if (b.x0 <= x) end = high(end, b.x1);
            else next = low(next, b.x0);
        }
        covered += end - x;
        x = end > x ? end : next;
    }
    return covered;
}

template <typename T, int N, bool TWO>
__global__ void __launch_bounds__(THREADS, 2) composite_kernel(CompositeArgs g, int chunks, int vectors_a_chunk) {
    __shared__ Box boxes[MAX_BOXES];
    __shared__ int count;
    __shared__ int lengths[THREADS];
    using V = Vector<T, N>;
    const i64 image = blockIdx.x / chunks;
    const int chunk = static_cast<int>(blockIdx.x % chunks), thread = static_cast<int>(threadIdx.x);
    const int width = static_cast<int>(g.width), rows = static_cast<int>(g.rows), inner = static_cast<int>(g.inner);
    if (thread == 0) {  // clipped and without the empty ones; a handful, so one thread keeps their order
        int kept = 0;
        for (i64 i = 0; i < g.n_boxes; i++) {
            const i64* p = g.boxes + (image * g.n_boxes + i) * 4;
            const i64 columns = g.width / g.inner;
            const i64 x0 = p[0] > 0 ? p[0] : 0, y0 = p[1] > 0 ? p[1] : 0;
            const i64 x1 = p[2] < columns ? p[2] : columns, y1 = p[3] < g.rows ? p[3] : g.rows;
            if (x0 < x1 && y0 < y1)
                boxes[kept++] = {static_cast<int>(x0) * inner, static_cast<int>(y0), static_cast<int>(x1) * inner,
                                 static_cast<int>(y1)};
        }
        count = kept;
    }
    __syncthreads();

    if (chunk == 0) {  // the exact area: rows over threads, then a sum
        int length = 0;
        for (int y = thread; y < rows; y += THREADS) length += row_length(boxes, count, y, width);
        lengths[thread] = length;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (thread < half) lengths[thread] += lengths[thread + half];
            __syncthreads();
        }
        if (thread == 0) g.area[image] = lengths[0] / inner;
    }

    const i64 ia = g.index_a ? g.index_a[image] : image, ib = TWO ? (g.index_b ? g.index_b[image] : image) : 0;
    if (ia < 0 || ia >= g.count_a || (TWO && (ib < 0 || ib >= g.count_b))) MIXAUG_TRAP();
    const V* base = reinterpret_cast<const V*>(static_cast<const T*>(g.base) + image * g.base_strides[0]);
    const V* a = reinterpret_cast<const V*>(static_cast<const T*>(g.a) + ia * g.a_strides[0]);
    const V* b = TWO ? reinterpret_cast<const V*>(static_cast<const T*>(g.b) + ib * g.b_strides[0]) : a;
    V* out = reinterpret_cast<V*>(static_cast<T*>(g.out) + image * g.out_strides[0]);
    const float beta = TWO ? g.beta[image] : 1.0f, rest = 1.0f - beta;
    const unsigned all = N == 32 ? 0xffffffffu : (1u << N) - 1u;

    // 32 bits: an image has under 2^31 elements, and a 64-bit division would cost more than the rest of the loop.
    const int plane = rows * width, vectors = static_cast<int>(g.planes) * plane / N;
    const int first = chunk * vectors_a_chunk, last = low(first + vectors_a_chunk, vectors);
    for (int at = first + thread; at < last; at += THREADS * IN_FLIGHT) {
        V from_base[IN_FLIGHT], from_a[IN_FLIGHT], from_b[IN_FLIGHT];
        unsigned bits[IN_FLIGHT];
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) {
            const int here = at + k * THREADS;
            bits[k] = 0;
            if (here >= last) continue;
            const int in_plane = here * N % plane, y = in_plane / width;
            bits[k] = element_bits(boxes, count, in_plane - y * width, y, N, width, rows);
            if (bits[k] != all) from_base[k] = base[here];
            if (bits[k]) from_a[k] = a[here];
            if (TWO && bits[k]) from_b[k] = b[here];
        }
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) {
            const int here = at + k * THREADS;
            if (here >= last) continue;
            V result = from_base[k];
            if (bits[k]) {
#pragma unroll
                for (int i = 0; i < N; i++) {
                    T inside = from_a[k].v[i];
                    if (TWO) save(beta * load(from_a[k].v[i]) + rest * load(from_b[k].v[i]), &inside);
                    if (bits[k] >> i & 1u) result.v[i] = inside;
                }
            }
            out[here] = result;
        }
    }
}

template <typename T, int N>
int launch(const CompositeArgs& g) {
    // Chunks of at most 64 KB: enough blocks for every GPU from one large image on, and few for a small one.
    const i64 vectors = g.planes * g.rows * g.width / N;
    const i64 most = (64 << 10) / static_cast<i64>(sizeof(T) * N);
    const i64 chunks = (vectors + most - 1) / most;
    const i64 each = (vectors + chunks - 1) / chunks;
    const i64 int_range = 0x7fffffff - THREADS * IN_FLIGHT * N;
    if (g.batch * chunks > int_range || g.planes * g.rows * g.width > int_range) return MIXAUG_BAD_ARGUMENT;
    const int n = static_cast<int>(chunks), e = static_cast<int>(each);
    if (g.b) return MIXAUG_LAUNCH((composite_kernel<T, N, true>), g.batch * chunks, THREADS, g.stream, g, n, e);
    return MIXAUG_LAUNCH((composite_kernel<T, N, false>), g.batch * chunks, THREADS, g.stream, g, n, e);
}

// The widest access that every image of every tensor allows.
template <typename T>
int dispatch(const CompositeArgs& g) {
    const i64 elements = g.planes * g.rows * g.width, size = sizeof(T);
    auto fits = [&](i64 bytes) {
        auto aligned = [&](const void* p, i64 stride) {
            return reinterpret_cast<std::uintptr_t>(p) % static_cast<std::uintptr_t>(bytes) == 0 && stride * size % bytes == 0;
        };
        return elements * size % bytes == 0 && aligned(g.base, g.base_strides[0]) && aligned(g.a, g.a_strides[0]) &&
               aligned(g.out, g.out_strides[0]) && (!g.b || aligned(g.b, g.b_strides[0]));
    };
    if (fits(16)) return launch<T, 16 / sizeof(T)>(g);
    if (fits(4)) return launch<T, (sizeof(T) < 4 ? 4 / sizeof(T) : 1)>(g);
    return launch<T, 1>(g);
}

}  // namespace

MIXAUG_API int mixaug_composite_cuda(const CompositeArgs* args) {
    const CompositeArgs& g = *args;
    if (g.n_boxes > MAX_BOXES) return MIXAUG_BAD_ARGUMENT;
    if (g.batch <= 0 || g.planes * g.rows * g.width <= 0) return MIXAUG_DONE;
    int error = MIXAUG_BAD_ARGUMENT;
    switch (g.dtype) {
        case MIXAUG_U8: error = dispatch<u8>(g); break;
        case MIXAUG_F16: error = dispatch<__half>(g); break;
        case MIXAUG_BF16: error = dispatch<__nv_bfloat16>(g); break;
        case MIXAUG_F32: error = dispatch<float>(g); break;
        default: return MIXAUG_BAD_ARGUMENT;
    }
    return error == MIXAUG_DONE || error == MIXAUG_BAD_ARGUMENT ? error : MIXAUG_CUDA_ERROR + error;
}
