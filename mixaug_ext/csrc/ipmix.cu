// IPMix on a GPU: replays a whole record in one launch, a block an image (a block takes further images in turn).
//
// A block holds its image and each chain's running result as bytes: in shared memory where (k + 2) images fit into
// SHARED bytes, else in a scratch buffer that the caller allocates. A thread takes pixels with all their channels, so
// that a warp's coordinates and a random mask's hash are worked out once. Every step is "pixel of the result as a
// function of the previous image": an operation that looks at neighbours writes into another buffer, and a mixing step
// takes its source (the picture, or an operation on the image itself) from the same functions without storing it.
// Arithmetic as in ipmix.cpp and the PyTorch form; -fmad=false keeps it so.

#include "composite.h"
#include "cuda_common.h"
#include "ipmix.h"

#if !defined(MIXAUG_CUDA_ON_CPU)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include <math.h>

namespace {

using i64 = std::int64_t;
using i32 = std::int32_t;
using u32 = std::uint32_t;
using u64 = unsigned long long;
using u8 = std::uint8_t;

// A block of 512 threads works on scratch memory, whose latency more warps hide; 256 on shared memory, so that an SM
// has several images in work.
#if defined(MIXAUG_CUDA_ON_CPU)
constexpr int THREADS = 16, THREADS_SCRATCH = 16;
#else
constexpr int THREADS = 256, THREADS_SCRATCH = 512;
#endif
constexpr i64 SHARED = 40 << 10;  // with the tables under the 48 KB that every GPU gives without being asked

enum Op : int {
    EQUALIZE, POSTERIZE, SOLARIZE, INVERT, MIRROR, ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y,
    AUTOCONTRAST, COLOR, CONTRAST, BRIGHTNESS, SHARPNESS, ADD, MULTIPLY, RANDOM_PIXELS, RANDOM_ELEMENTS
};

// Worked out on the host, as the PyTorch form does: a device's own cosine differs in the last bit.
struct Constants {
    double log2_of[256];  // of 2 v / 255
    double cos_of[61], sin_of[61];  // of -30..30 degrees
};

__device__ inline float load(u8 v) { return static_cast<float>(v); }
__device__ inline float load(float v) { return v; }
__device__ inline float load(__half v) { return __half2float(v); }
__device__ inline float load(__nv_bfloat16 v) { return __bfloat162float(v); }

__device__ inline u8 to_byte(float v) {
    v = v > 0.0f ? v : 0.0f;  // also sends NaN to 0
    v = v < 255.0f ? v : 255.0f;
    return static_cast<u8>(__float2int_rn(v));
}
__device__ inline float unit(float v) { return v < 0.0f ? 0.0f : (v > 1.0f ? 1.0f : v); }

__device__ inline u8 quantise(u8 v) { return v; }
template <typename T>
__device__ inline u8 quantise(T v) { return to_byte(load(v) * 255.0f); }

__device__ inline void save(float v, u8* out) { *out = to_byte(v); }
__device__ inline void save(float v, float* out) { *out = unit(v); }
__device__ inline void save(float v, __half* out) { *out = __float2half_rn(unit(v)); }
__device__ inline void save(float v, __nv_bfloat16* out) { *out = __float2bfloat16_rn(unit(v)); }

__device__ inline u8 blend_byte(int degenerate, int value, float factor) {
    float v = static_cast<float>(degenerate) + factor * static_cast<float>(value - degenerate);
    v = v > 0.0f ? v : 0.0f;
    v = v < 255.0f ? v : 255.0f;
    return static_cast<u8>(static_cast<int>(v));
}

__device__ inline u8 luma(int r, int g, int b) {
    return static_cast<u8>((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16);
}

__device__ inline u32 mix32(u32 x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}
__device__ inline u32 counter_hash(u32 index, u32 lo, u32 hi) { return mix32(mix32(index ^ lo) + hi); }

__device__ inline i32 clampi(i32 v, i32 hi) { return v < 0 ? 0 : (v > hi ? hi : v); }

struct Image { int c, h, w, plane; };

// ------------------------------------------------------------------ coordinates, as in ipmix.cpp

constexpr i64 ONE = i64(1) << 32;
constexpr int BITS = 11;
constexpr i32 UNIT = 1 << BITS;

struct Tap { i32 first, second, frac; bool inside; };

__device__ inline Tap tap(i64 coordinate, int size) {
    const i64 shifted = coordinate - ONE / 2 + (i64(1) << (31 - BITS));
    const i32 index = static_cast<i32>(shifted >> 32);
    return {clampi(index, size - 1), clampi(index + 1, size - 1), static_cast<i32>((shifted >> (32 - BITS)) & (UNIT - 1)),
            coordinate >= 0 && coordinate < static_cast<i64>(size) * ONE};
}

__device__ inline i32 bilinear(const u8* s, int w, const Tap& tx, const Tap& ty, i32 half) {
    const u8 *upper = s + static_cast<i64>(ty.first) * w, *lower = s + static_cast<i64>(ty.second) * w;
    const i32 high = upper[tx.first] * (UNIT - tx.frac) + upper[tx.second] * tx.frac;
    const i32 low = lower[tx.first] * (UNIT - tx.frac) + lower[tx.second] * tx.frac;
    return (high * (UNIT - ty.frac) + low * ty.frac + half) >> (2 * BITS);
}

__device__ inline i64 fixed(double v) { return static_cast<i64>(rint(v * 4294967296.0)); }

// ------------------------------------------------------------------ one image-level operation, pixel by pixel

// What an operation needs besides its source: `number` is a mask, a threshold or a grey; a..f the affine map.
struct Operation {
    int op, number;
    float factor;
    i64 a, b, c, d, e, f;
};

__device__ inline Operation operation(int op, float strength, i64 sign, const Image& im, const Constants& t) {
    const double level = static_cast<double>(strength), way = static_cast<double>(sign);
    Operation o{op, 0, static_cast<float>(0.18 * level + 0.1), ONE, 0, 0, 0, ONE, 0};
    if (op == POSTERIZE) {
        const int bits = 4 - static_cast<int>(0.4 * level);
        o.number = 256 - (1 << (8 - (bits > 0 ? bits : 0)));
    } else if (op == SOLARIZE) {
        o.number = 256 - static_cast<int>(25.6 * level);
    } else if (op == ROTATE) {
        const int degrees = static_cast<int>(3.0 * level) * static_cast<int>(sign);
        const double co = t.cos_of[clampi(degrees + 30, 60)], si = t.sin_of[clampi(degrees + 30, 60)];
        o.a = fixed(co);
        o.b = fixed(-si);
        o.c = fixed(-0.5 * im.w * co + 0.5 * im.h * si + 0.5 * im.w);
        o.d = fixed(si);
        o.e = fixed(co);
        o.f = fixed(-0.5 * im.w * si - 0.5 * im.h * co + 0.5 * im.h);
    } else if (op == SHEAR_X) {
        o.b = fixed(way * 0.03 * level);
    } else if (op == SHEAR_Y) {
        o.d = fixed(way * 0.03 * level);
    } else if (op == TRANSLATE_X) {
        o.c = sign * static_cast<i64>(level * im.w / 30.0) * ONE;
    } else if (op == TRANSLATE_Y) {
        o.f = sign * static_cast<i64>(level * im.h / 30.0) * ONE;
    }
    return o;
}

// The operation's pixel (x, y) of `src`, all channels.
__device__ inline void pixel(const Operation& o, const u8* src, const Image& im, int x, int y, const u8 (*lut)[256], u8* out) {
    const int at = y * im.w + x;
    switch (o.op) {
        case EQUALIZE:
        case AUTOCONTRAST:
            for (int c = 0; c < im.c; c++) out[c] = lut[c][src[c * im.plane + at]];
            return;
        case POSTERIZE:
            for (int c = 0; c < im.c; c++) out[c] = static_cast<u8>(src[c * im.plane + at] & o.number);
            return;
        case SOLARIZE:
        case INVERT:
            for (int c = 0; c < im.c; c++) {
                const int v = src[c * im.plane + at];
                out[c] = static_cast<u8>(v < o.number ? v : 255 - v);
            }
            return;
        case MIRROR:
            for (int c = 0; c < im.c; c++) out[c] = src[c * im.plane + y * im.w + im.w - 1 - x];
            return;
        case CONTRAST:
        case BRIGHTNESS:
            for (int c = 0; c < im.c; c++) out[c] = blend_byte(o.number, src[c * im.plane + at], o.factor);
            return;
        case COLOR: {
            if (im.c == 1) {  // a grey image is its own grey
                out[0] = src[at];
                return;
            }
            const int grey = luma(src[at], src[im.plane + at], src[2 * im.plane + at]);
            for (int c = 0; c < im.c; c++) out[c] = blend_byte(grey, src[c * im.plane + at], o.factor);
            return;
        }
        case SHARPNESS:
            for (int c = 0; c < im.c; c++) {
                const u8* s = src + c * im.plane + at;
                if (x == 0 || y == 0 || x == im.w - 1 || y == im.h - 1) {  // PIL's 3x3 filter copies the border
                    out[c] = *s;
                    continue;
                }
                const u8 *up = s - im.w, *down = s + im.w;
                const int sum = up[-1] + up[0] + up[1] + s[-1] + 5 * s[0] + s[1] + down[-1] + down[0] + down[1];
                out[c] = blend_byte((2 * sum + 13) / 26, *s, o.factor);
            }
            return;
        default: break;
    }
    const Tap tx = tap(((o.a * (2 * x + 1) + o.b * (2 * y + 1)) >> 1) + o.c, im.w);
    const Tap ty = tap(((o.d * (2 * x + 1) + o.e * (2 * y + 1)) >> 1) + o.f, im.h);
    const bool inside = tx.inside && ty.inside;
    for (int c = 0; c < im.c; c++)
        out[c] = inside ? static_cast<u8>(bilinear(src + c * im.plane, im.w, tx, ty, 0)) : u8(0);
}

// Pixel (x, y) of the picture's crop, enlarged from the bank's side to g.side where it is smaller; luma for grey images.
__device__ inline void picture_pixel(const IPMixArgs& g, const u8* picture, i64 top, i64 left, const Image& im, int x, int y,
                                     u8* out) {
    const i64 plane = g.bank * g.bank;
    int value[3];
    if (g.bank == g.side) {
        const u8* p = picture + (top + y) * g.bank + left + x;
        for (int c = 0; c < 3; c++) value[c] = p[c * plane];
    } else {
        const int size = static_cast<int>(g.bank);
        const Tap tx = tap((((2 * (left + x) + 1) * g.bank) << 31) / g.side, size);
        const Tap ty = tap((((2 * (top + y) + 1) * g.bank) << 31) / g.side, size);
        for (int c = 0; c < 3; c++) value[c] = bilinear(picture + c * plane, size, tx, ty, 1 << (2 * BITS - 1));
    }
    if (im.c == 1) out[0] = luma(value[0], value[1], value[2]);
    else for (int c = 0; c < 3; c++) out[c] = static_cast<u8>(value[c]);
}

// ------------------------------------------------------------------ statistics of an image, by the whole block

// Tables of a block in shared memory.
struct Tables {
    u32 counts[3][256];
    u8 lut[3][256];
    float power_u[256], power_s[256];
    u32 range[3][2];
    u64 sum;
};

// Equalize and autocontrast leave their tables in t.lut, contrast its grey in t.sum. All threads come here; before and
// after it they have met.
__device__ inline void prepare(int op, float strength, const u8* src, const Image& im, Tables& t) {
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    if (op == CONTRAST) {
        if (thread == 0) t.sum = 0;
        __syncthreads();
        u64 own = 0;
        for (int i = thread; i < im.plane; i += threads)
            own += im.c == 1 ? src[i] : luma(src[i], src[im.plane + i], src[2 * im.plane + i]);
        atomicAdd(&t.sum, own);
        __syncthreads();
        return;
    }
    if (op != EQUALIZE && op != AUTOCONTRAST) return;
    for (int i = thread; i < 256 * im.c; i += threads) t.counts[i >> 8][i & 255] = 0;
    __syncthreads();
    for (int c = 0; c < im.c; c++)
        for (int i = thread; i < im.plane; i += threads) atomicAdd(&t.counts[c][src[c * im.plane + i]], 1u);
    __syncthreads();
    if (thread < im.c) {  // the serial part, a channel a thread
        u32* h = t.counts[thread];
        if (op == EQUALIZE) {  // counts become those of the smaller values
            u32 total = 0, last = 0;
            for (int v = 0; v < 256; v++) {
                const u32 here = h[v];
                last = here ? here : last;
                h[v] = total;
                total += here;
            }
            t.range[thread][0] = (total - last) / 255;
        } else {
            const double share = 10.0 - static_cast<double>(strength);
            const u32 each = static_cast<u32>(floor(static_cast<double>(im.plane) * share / 100.0));
            u32 cut = each;
            for (int v = 0; v < 256 && cut > 0; v++) {
                const u32 less = cut < h[v] ? cut : h[v];
                h[v] -= less;
                cut -= less;
            }
            cut = each;
            for (int v = 255; v >= 0 && cut > 0; v--) {
                const u32 less = cut < h[v] ? cut : h[v];
                h[v] -= less;
                cut -= less;
            }
            int lo = 0, hi = 255;
            while (lo < 255 && !h[lo]) lo++;
            while (hi > 0 && !h[hi]) hi--;
            t.range[thread][0] = static_cast<u32>(lo);
            t.range[thread][1] = static_cast<u32>(hi);
        }
    }
    __syncthreads();
    for (int i = thread; i < 256 * im.c; i += threads) {
        const int c = i >> 8, v = i & 255;
        u32 to = static_cast<u32>(v);
        if (op == EQUALIZE) {
            const u32 step = t.range[c][0];
            if (step) {
                to = (step / 2 + t.counts[c][v]) / step;
                to = to < 255 ? to : 255;
            }
        } else {
            const int lo = static_cast<int>(t.range[c][0]), hi = static_cast<int>(t.range[c][1]);
            if (hi > lo) {
                const double scale = 255.0 / (hi - lo), offset = -lo * scale;
                to = static_cast<u32>(clampi(static_cast<int>(v * scale + offset), 255));
            }
        }
        t.lut[c][v] = static_cast<u8>(to);
    }
    __syncthreads();
}

// ------------------------------------------------------------------ the kernel

template <typename T>
__global__ void __launch_bounds__(512, 2) ipmix_kernel(IPMixCudaArgs args, Constants constants) {
    MIXAUG_DYNAMIC_SHARED(buffers);
    __shared__ Tables tables;
    const IPMixArgs& g = args.common;
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const int h = static_cast<int>(g.height), w = static_cast<int>(g.width);
    const Image im{static_cast<int>(g.channels), h, w, h * w};
    const i64 size = static_cast<i64>(im.c) * im.plane;
    u8* base = args.scratch ? args.scratch + static_cast<i64>(blockIdx.x) * (g.k + 2) * size : buffers;
    u8 *spare = base + size, *chains = spare + size;

    for (i64 r = blockIdx.x; r < g.rows; r += gridDim.x) {
        const T* x_in = static_cast<const T*>(g.images) + r % g.batch * g.in_strides[0];
        for (int p = thread; p < im.plane; p += threads) {
            const int y = p / w;
            const T* s = x_in + y * g.in_strides[2] + (p - y * w) * g.in_strides[3];
            for (int c = 0; c < im.c; c++) base[c * im.plane + p] = quantise(s[c * g.in_strides[1]]);
        }
        __syncthreads();

        const u8* start = base;
        for (i64 i = 0; i < g.k; i++) {
            const i64 first = (r * g.k + i) * g.t;
            if (!mixaug_record::depth_fits(g, r * g.k + i)) MIXAUG_TRAP();
            const int depth = static_cast<int>(g.depth[r * g.k + i]);
            for (int j = 0; j < depth; j++)
                if (!mixaug_record::step_fits(g, r, first + j)) MIXAUG_TRAP();
            int left_over = 0;  // image-level steps still to come: they decide which buffer a step writes to,
            for (int j = 0; j < depth; j++) left_over += g.op[first + j] < ADD;  // so that the last one writes to `mine`
            u8* mine = chains + i * size;
            const u8* cur = start;
            for (int j = 0; j < depth; j++) {
                const i64 at = first + j;
                const int op = static_cast<int>(g.op[at]);
                const bool image_level = op < ADD;
                left_over -= image_level;
                // A mixing step works in place once the chain has a buffer of its own.
                u8* dst = left_over % 2 == 0 ? mine : spare;
                const bool in_place = cur == dst;
                const int own = image_level ? op : static_cast<int>(g.source[at]);
                const u8* seen = image_level ? cur : base;
                Operation o{};
                if (own >= 0) {
                    prepare(own, g.level[at], seen, im, tables);
                    o = operation(own, g.level[at], g.sign[at], im, constants);
                    if (own == CONTRAST)
                        o.number = static_cast<int>(static_cast<double>(tables.sum) / static_cast<double>(im.plane) + 0.5);
                }
                if (image_level) {
                    for (int p = thread; p < im.plane; p += threads) {
                        const int y = p / w;
                        u8 value[3];
                        pixel(o, cur, im, p - y * w, y, tables.lut, value);
                        for (int c = 0; c < im.c; c++) dst[c * im.plane + p] = value[c];
                    }
                    __syncthreads();
                    cur = dst;
                    continue;
                }

                const float a = g.a[at], b = g.b[at], k0 = 127.5f * ((1.0f - a) - b);
                if (op == MULTIPLY) {
                    for (int v = thread; v < 256; v += threads) {
                        const double log2 = constants.log2_of[v];
                        tables.power_u[v] = static_cast<float>(127.5 * exp2(static_cast<double>(a) * log2));
                        tables.power_s[v] = static_cast<float>(exp2(static_cast<double>(b) * log2));
                        if (v == 0) tables.power_u[0] = a == 0.0f ? 127.5f : 0.0f;
                    }
                    __syncthreads();
                }
                const i64 which = own < 0 ? g.picture[r] : 0;
                const u8* picture = g.pictures + which * 3 * g.bank * g.bank;
                const u32 lo = static_cast<u32>(g.seed[at]), hi = static_cast<u32>(static_cast<u64>(g.seed[at]) >> 32);
                const u32 threshold = static_cast<u32>(g.keep[at] * 16777216.0f);
                const int x0 = static_cast<int>(g.box[at * 4]), y0 = static_cast<int>(g.box[at * 4 + 1]);
                const int x1 = static_cast<int>(g.box[at * 4 + 2]), y1 = static_cast<int>(g.box[at * 4 + 3]);
                // In place just the box is visited, else the rest is copied.
                const int from_x = in_place ? x0 : 0, from_y = in_place ? y0 : 0;
                const int columns = in_place ? x1 - x0 : w, pixels = columns * (in_place ? y1 - y0 : h);
                for (int q = thread; q < pixels; q += threads) {
                    const int row = q / columns, y = from_y + row, x = from_x + q - row * columns, p = y * w + x;
                    const bool inside = x >= x0 && x < x1 && y >= y0 && y < y1;
                    u8 other[3] = {0, 0, 0};
                    if (inside && own >= 0) pixel(o, base, im, x, y, tables.lut, other);
                    if (inside && own < 0) picture_pixel(g, picture, g.top[r], g.left[r], im, x, y, other);
                    for (int c = 0; c < im.c; c++) {
                        u8 u = cur[c * im.plane + p];
                        if (inside && op == ADD) {
                            u = to_byte(static_cast<float>(u) * a + (static_cast<float>(other[c]) * b + k0));
                        } else if (inside && op == MULTIPLY) {
                            u = to_byte(tables.power_u[u] * tables.power_s[other[c]]);
                        } else if (inside) {
                            const int index = op == RANDOM_PIXELS ? p : c * im.plane + p;
                            const u32 hash = counter_hash(static_cast<u32>(index), lo, hi);
                            u = (hash >> 8) < threshold ? u : other[c];
                        }
                        dst[c * im.plane + p] = u;
                    }
                }
                __syncthreads();
                cur = dst;
            }
            if (g.mixed_input) start = cur;
        }

        // out = skip x + sum_i coef_i chain_i, in this order; a chain without a step is part of `skip`.
        T* x_out = static_cast<T*>(g.out) + r * g.out_strides[0];
        const float skip = g.skip[r];
        for (int p = thread; p < im.plane; p += threads) {
            const int y = p / w, x = p - y * w;
            for (int c = 0; c < im.c; c++) {
                float total = skip * load(x_in[c * g.in_strides[1] + y * g.in_strides[2] + x * g.in_strides[3]]);
                const u8* result = nullptr;
                for (i64 i = 0; i < g.k; i++) {
                    if (g.depth[r * g.k + i] > 0) result = chains + i * size + c * im.plane + p;
                    else if (!g.mixed_input) result = nullptr;
                    if (result) total = total + g.coef[r * g.k + i] * static_cast<float>(*result);
                }
                save(total, x_out + c * g.out_strides[1] + y * g.out_strides[2] + x * g.out_strides[3]);
            }
        }
        __syncthreads();  // the next image takes the buffers
    }
}

const Constants& constants() {
    static const struct Made : Constants {
        Made() {
            for (int v = 0; v < 256; v++) log2_of[v] = ::log2(v ? 2.0 * v / 255.0 : 1e-37);
            for (int d = -30; d <= 30; d++) {
                cos_of[d + 30] = ::cos(d * (3.14159265358979323846 / 180.0));
                sin_of[d + 30] = ::sin(d * (3.14159265358979323846 / 180.0));
            }
        }
    } made;
    return made;
}

template <typename T>
int launch(const IPMixCudaArgs& args) {
    const IPMixArgs& g = args.common;
    [[maybe_unused]] const i64 bytes = args.scratch ? 0 : (g.k + 2) * g.channels * g.height * g.width;
    const int threads = args.scratch ? THREADS_SCRATCH : THREADS;
    return MIXAUG_LAUNCH_SHARED((ipmix_kernel<T>), args.blocks, threads, bytes, args.stream, args, constants());
}

}  // namespace

// Bytes of shared memory that the (k + 2) images of a block may take; above it the caller gives scratch memory.
MIXAUG_API std::int64_t mixaug_ipmix_cuda_shared() { return SHARED; }

MIXAUG_API int mixaug_ipmix_cuda(const IPMixCudaArgs* args) {
    const IPMixArgs& g = args->common;
    const i64 size = g.channels * g.height * g.width;
    if (g.rows <= 0 || size <= 0) return MIXAUG_DONE;
    if (!mixaug_record::sizes_fit(g) || size > 0x7fff0000 || args->blocks <= 0 || args->blocks > 0x7fffffff)
        return MIXAUG_BAD_ARGUMENT;
    if (!args->scratch && (g.k + 2) * size > SHARED) return MIXAUG_BAD_ARGUMENT;
    int error = 0;
    switch (args->dtype) {
        case MIXAUG_U8: error = launch<u8>(*args); break;
        case MIXAUG_F16: error = launch<__half>(*args); break;
        case MIXAUG_BF16: error = launch<__nv_bfloat16>(*args); break;
        case MIXAUG_F32: error = launch<float>(*args); break;
        default: return MIXAUG_BAD_ARGUMENT;
    }
    return error ? MIXAUG_CUDA_ERROR + error : MIXAUG_DONE;
}
