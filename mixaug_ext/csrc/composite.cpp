// Box compositing on the CPU: one pass over the result, every source pixel read once and only where it is used.
//
// The boxes of an image cut its rows into bands in which the union is the same set of runs, so the union is worked out
// once a band (a handful an image), not once a pixel or row; rows of at most 64 floats get a bit mask each instead. Outside
// the runs memory is copied, inside two sources are blended in float32 with one rounding, as in mixaug/ops/composite.py,
// bit for bit (-ffp-contract=off).
//
// Threads are started per call and joined before it returns, as in ipmix.cpp: nothing outlives the call, so a forked
// loader worker inherits no half-dead pool.

#include "composite.h"
#include "isa.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <new>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define MIXAUG_AVX2
#endif

namespace {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using i32 = std::int32_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i64 = std::int64_t;

// ------------------------------------------------------------------ numbers

inline float as_float(u32 bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline u32 as_bits(float value) {
    u32 bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

struct Half { u16 bits; };
struct BFloat { u16 bits; };

inline float load(u8 v) { return static_cast<float>(v); }
inline float load(float v) { return v; }
inline float load(BFloat v) { return as_float(static_cast<u32>(v.bits) << 16); }
// Branch-free, so that the compiler uses vectors: every case is computed and one is chosen.
inline float load(Half v) {
    const u32 magnitude = v.bits & 0x7fffu, sign = static_cast<u32>(v.bits & 0x8000u) << 16;
    const u32 normal = (magnitude << 13) + (112u << 23);                            // another exponent bias
    const u32 special = (magnitude << 13) | 0x7f800000u;                            // infinity and NaN
    const u32 small = as_bits(static_cast<float>(magnitude) * 5.9604644775390625e-8f);  // subnormal: times 2^-24
    const u32 value = magnitude >= 0x7c00u ? special : (magnitude < 0x0400u ? small : normal);
    return as_float(value | sign);
}

inline void save(float v, u8* out) {
    const float magic = 12582912.0f;  // rounds half to even, see ipmix.cpp
    *out = static_cast<u8>(static_cast<int>((v + magic) - magic));
}
inline void save(float v, float* out) { *out = v; }
inline void save(float v, BFloat* out) {
    const u32 bits = as_bits(v);
    const u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out->bits = static_cast<u16>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
inline void save(float v, Half* out) {
    const u32 bits = as_bits(v), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    const u32 normal = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    // Below 2^-14 the result is a multiple of 2^-24: adding 1/2 leaves that multiple, rounded to even, in the low bits.
    const u32 small = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u;
    const u32 large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const u32 value = magnitude >= 0x477ff000u ? large : (magnitude < 0x38800000u ? small : normal);
    out->bits = static_cast<u16>(value | sign);
}

// Some rows of one plane of one image, from its first column on.
template <typename T>
struct Patch {
    const T *base, *a, *b;
    T* out;
    i64 base_row, a_row, b_row, out_row;  // strides
    i64 rows;
    float beta, rest;
};

template <typename T>
void copy_columns(const T* from, i64 from_row, T* to, i64 to_row, i64 rows, i64 x0, i64 x1) {
    if (x0 == x1) return;
    const bool joined = from_row == x1 - x0 && to_row == x1 - x0;  // then x0 is 0 and the rows are one run of memory
    const i64 count = joined ? 1 : rows;
    const size_t bytes = static_cast<size_t>((joined ? rows : 1) * (x1 - x0)) * sizeof(T);
    for (i64 y = 0; y < count; y++) std::memcpy(to + y * to_row + x0, from + y * from_row + x0, bytes);
}

template <typename T>
void fill_columns(const Patch<T>& p, i64 x0, i64 x1) {
    if (!p.b) return copy_columns(p.a, p.a_row, p.out, p.out_row, p.rows, x0, x1);
    const float beta = p.beta, rest = p.rest;
    for (i64 y = 0; y < p.rows; y++) {
        const T* __restrict a = p.a + y * p.a_row;
        const T* __restrict b = p.b + y * p.b_row;
        T* __restrict out = p.out + y * p.out_row;
        for (i64 x = x0; x < x1; x++) save(beta * load(a[x]) + rest * load(b[x]), out + x);
    }
}

#if defined(MIXAUG_AVX2)
#define AVX2 __attribute__((target("avx2,f16c"), always_inline)) inline
// Eight values as floats and back: the bits of load() and save() above.
AVX2 __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
AVX2 __m256 load8(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
AVX2 __m256 load8(const BFloat* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
AVX2 __m256 load8(const u8* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
AVX2 void save8(__m256 v, float* p) { _mm256_storeu_ps(p, v); }
AVX2 void save8(__m256 v, Half* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
AVX2 __m128i pack16(__m256i v) {  // eight 32-bit values below 2^16 to 16 bits
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0x08));
}
AVX2 void save8(__m256 v, BFloat* p) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i rounded = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), _mm256_set1_epi32(0x7fc0), nan);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), pack16(rounded));
}
AVX2 void save8(__m256 v, u8* p) {
    const __m128i words = pack16(_mm256_cvtps_epi32(v));  // rounds half to even
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}

// Rows of a band as two lists of places in a row, the same for every row and plane: 32-byte blocks of the image, and of
// what fills the runs: eight elements to blend, or 32 bytes of one source. The image's blocks come first and may reach
// into a run, which is then written over.
template <typename T>
__attribute__((target("avx2,f16c"))) void blocks_avx2(const Patch<T>& p, const i32* copies, size_t n_copies,
                                                      const i32* blends, size_t n_blends) {
    const __m256 beta = _mm256_set1_ps(p.beta), rest = _mm256_set1_ps(p.rest);
    const T *base = p.base, *a = p.a, *b = p.b;
    T* out = p.out;
    for (i64 y = 0; y < p.rows; y++, base += p.base_row, a += p.a_row, b = b ? b + p.b_row : b, out += p.out_row) {
        for (size_t k = 0; k < n_copies; k++)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + copies[k]),
                                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(base + copies[k])));
        if (b == nullptr) {
            for (size_t k = 0; k < n_blends; k++)
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + blends[k]),
                                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + blends[k])));
            continue;
        }
        for (size_t k = 0; k < n_blends; k++) {
            const i64 x = blends[k];
            save8(_mm256_add_ps(_mm256_mul_ps(beta, load8(a + x)), _mm256_mul_ps(rest, load8(b + x))), out + x);
        }
    }
}
#endif

#if defined(MIXAUG_AVX2)
#define AVX512 __attribute__((target("avx512f,popcnt")))
#endif

bool has_avx2() {
#if defined(MIXAUG_AVX2)
    return mixaug::isa() >= mixaug::Isa::avx2;
#else
    return false;
#endif
}

// ------------------------------------------------------------------ the union of an image's boxes

struct Run { i64 x0, x1; };  // elements of a row
struct Span { size_t first, last; };  // of one of the lists in Bands
struct Band { i64 y0, y1; Span runs, copies, blends; };

struct Bands {
    std::vector<Band> bands;
    std::vector<Run> runs;
    std::vector<i32> copies, blends;  // see blocks_avx2
    std::vector<i64> edges, box;
    i64 area = 0;  // elements of one plane

    // Boxes are clipped; the bands cover all rows in order. A block of `block` elements is 32 bytes; 0: no lists of blocks.
    void find(const i64* boxes, i64 count, i64 rows, i64 width, i64 inner, i64 block, i64 piece) {
        bands.clear();
        runs.clear();
        copies.clear();
        blends.clear();
        box.clear();
        edges.assign({0, rows});
        area = 0;
        const i64 columns = width / inner;
        for (i64 i = 0; i < count; i++) {
            const i64* p = boxes + 4 * i;
            const i64 x0 = std::max<i64>(p[0], 0), y0 = std::max<i64>(p[1], 0);
            const i64 x1 = std::min(p[2], columns), y1 = std::min(p[3], rows);
            if (x0 >= x1 || y0 >= y1) continue;
            box.insert(box.end(), {x0 * inner, y0, x1 * inner, y1});
            edges.insert(edges.end(), {y0, y1});
        }
        std::sort(edges.begin(), edges.end());
        edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
        for (size_t e = 0; e + 1 < edges.size(); e++) {
            const i64 y0 = edges[e], y1 = edges[e + 1];
            const size_t first = runs.size();
            for (size_t i = 0; i < box.size(); i += 4)
                if (box[i + 1] <= y0 && y1 <= box[i + 3]) runs.push_back({box[i], box[i + 2]});
            std::sort(runs.begin() + static_cast<std::ptrdiff_t>(first), runs.end(),
                      [](const Run& p, const Run& q) { return p.x0 < q.x0; });
            size_t last = first;  // merge what overlaps or touches
            for (size_t i = first; i < runs.size(); i++) {
                if (last > first && runs[i].x0 <= runs[last - 1].x1) runs[last - 1].x1 = std::max(runs[last - 1].x1, runs[i].x1);
                else runs[last++] = runs[i];
            }
            runs.resize(last);
            for (size_t i = first; i < last; i++) area += (y1 - y0) * (runs[i].x1 - runs[i].x0);
            const size_t copy = copies.size(), blend = blends.size();
            if (block && last > first) list_blocks(first, last, width, block, piece);
            bands.push_back({y0, y1, {first, last}, {copy, copies.size()}, {blend, blends.size()}});
        }
    }

    // Blocks that would reach past the end of the row or run lie back to back with it instead, over the block before.
    void list_blocks(size_t first, size_t last, i64 width, i64 block, i64 piece) {
        i64 from = 0;
        for (size_t i = first; i <= last; i++) {
            const i64 to = i < last ? runs[i].x0 : width;
            for (i64 x = from; x < to; x += block) copies.push_back(static_cast<i32>(std::min(x, width - block)));
            if (i == last) break;
            from = runs[i].x1;
            if (from - to < piece) continue;  // a short run is filled value by value
            for (i64 x = to; x < from; x += piece) blends.push_back(static_cast<i32>(std::min(x, from - piece)));
        }
    }
};

// ------------------------------------------------------------------ short rows of floats and bytes

// At 32 px finding and sorting runs and misjudging the ends of short loops takes half of the time (of bytes most of it). A
// row of at most 64 elements is one word of bits and at most four vectors, without a branch but for rows that no box
// touches.
constexpr i64 MASK_BITS = 64;

#if defined(MIXAUG_AVX2)
// Bit x of a row: whether a box covers element x. Returns the elements of the union. Eight rows at once, and all rows for
// each box: where a box begins and ends is no branch. `masks` has room for the rows up to a multiple of eight.
AVX512 i64 row_masks(const CompositeArgs& g, i64 image, u64* masks) {
    std::fill(masks, masks + g.rows, 0);
    const i64 columns = g.width / g.inner;
    for (const i64 *p = g.boxes + image * g.n_boxes * 4, *end = p + g.n_boxes * 4; p < end; p += 4) {
        const i64 x0 = std::clamp<i64>(p[0], 0, columns) * g.inner, x1 = std::clamp<i64>(p[2], 0, columns) * g.inner;
        const u64 bits = x0 < x1 ? (~u64{0} >> (MASK_BITS - (x1 - x0))) << x0 : 0;
        const __m512i box = _mm512_set1_epi64(static_cast<i64>(bits)), y0 = _mm512_set1_epi64(p[1]);
        const __m512i y1 = _mm512_set1_epi64(p[3]);
        __m512i at = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        for (i64 y = 0; y < g.rows; y += 8, at = _mm512_add_epi64(at, _mm512_set1_epi64(8))) {
            const __mmask8 in = _mm512_mask_cmplt_epi64_mask(_mm512_cmpge_epi64_mask(at, y0), at, y1);
            const __m512i before = _mm512_loadu_si512(masks + y);
            _mm512_storeu_si512(masks + y, _mm512_mask_or_epi64(before, in, before, box));
        }
    }
    i64 area = 0;
    for (i64 y = 0; y < g.rows; y++) area += __builtin_popcountll(masks[y]);
    return area;
}

// `N` vectors a row; what a mask leaves out is not read, and nothing is written beyond the row.
template <int N, bool BLEND>
AVX512 void masked_rows(const Patch<float>& p, const u64* masks, u64 row) {
    const __m512 beta = _mm512_set1_ps(p.beta), rest = _mm512_set1_ps(p.rest);
    const float *base = p.base, *a = p.a, *b = p.b;
    float* out = p.out;
    for (i64 y = 0; y < p.rows; y++, base += p.base_row, a += p.a_row, out += p.out_row) {
        const u64 mask = masks[y], outside = row & ~mask;
        __m512 value[N];
        for (int k = 0; k < N; k++)
            value[k] = _mm512_maskz_loadu_ps(static_cast<__mmask16>(outside >> 16 * k), base + 16 * k);
        if (mask != 0) {
            for (int k = 0; k < N; k++) {
                const __mmask16 in = static_cast<__mmask16>(mask >> 16 * k);
                if (BLEND) {
                    const __m512 first = _mm512_mul_ps(beta, _mm512_maskz_loadu_ps(in, a + 16 * k));
                    const __m512 second = _mm512_mul_ps(rest, _mm512_maskz_loadu_ps(in, b + 16 * k));
                    value[k] = _mm512_mask_add_ps(value[k], in, first, second);
                } else {
                    value[k] = _mm512_mask_loadu_ps(value[k], in, a + 16 * k);
                }
            }
        }
        if (BLEND) b += p.b_row;
        for (int k = 0; k < N - 1; k++) _mm512_storeu_ps(out + 16 * k, value[k]);
        _mm512_mask_storeu_ps(out + 16 * (N - 1), static_cast<__mmask16>(row >> 16 * (N - 1)), value[N - 1]);
    }
}

// The same for a row of bytes, one vector; blended in `N` parts of sixteen, as floats, and rounded half to even.
template <int N, bool BLEND>
__attribute__((target("avx512f,avx512bw,avx512vl"))) void masked_bytes(const Patch<u8>& p, const u64* masks, u64 row) {
    const __m512 beta = _mm512_set1_ps(p.beta), rest = _mm512_set1_ps(p.rest);
    const u8 *base = p.base, *a = p.a, *b = p.b;
    u8* out = p.out;
    for (i64 y = 0; y < p.rows; y++, base += p.base_row, a += p.a_row, out += p.out_row) {
        const u64 mask = masks[y];
        __m512i value = _mm512_maskz_loadu_epi8(row & ~mask, base);
        if (mask != 0 && BLEND) {
            __m128i parts[4] = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
            for (int k = 0; k < N; k++) {
                const __mmask16 in = static_cast<__mmask16>(mask >> 16 * k);
                const __m512i first = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(in, a + 16 * k));
                const __m512i second = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(in, b + 16 * k));
                const __m512 sum = _mm512_add_ps(_mm512_mul_ps(beta, _mm512_cvtepi32_ps(first)),
                                                 _mm512_mul_ps(rest, _mm512_cvtepi32_ps(second)));
                parts[k] = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(sum));
            }
            const __m512i low = _mm512_castsi256_si512(_mm256_set_m128i(parts[1], parts[0]));
            const __m512i blended = _mm512_inserti64x4(low, _mm256_set_m128i(parts[3], parts[2]), 1);
            value = _mm512_mask_mov_epi8(value, mask, blended);
        } else if (mask != 0) {
            value = _mm512_mask_loadu_epi8(value, mask, a);
        }
        if (BLEND) b += p.b_row;
        _mm512_mask_storeu_epi8(out, row, value);
    }
}
#endif

// ------------------------------------------------------------------ the pass

template <typename T>
const T* row_of(const void* p, const i64 (&strides)[3], i64 image, i64 plane, i64 y) {
    return static_cast<const T*>(p) + image * strides[0] + plane * strides[1] + y * strides[2];
}

// Rows [y0, y1) of a plane.
template <typename T>
Patch<T> patch_of(const CompositeArgs& g, i64 image, i64 plane, i64 y0, i64 y1) {
    const i64 ia = g.index_a ? g.index_a[image] : image, ib = g.index_b ? g.index_b[image] : image;
    const float beta = g.b ? g.beta[image] : 1.0f;
    return {row_of<T>(g.base, g.base_strides, image, plane, y0),
            row_of<T>(g.a, g.a_strides, ia, plane, y0),
            g.b ? row_of<T>(g.b, g.b_strides, ib, plane, y0) : nullptr,
            const_cast<T*>(row_of<T>(g.out, g.out_strides, image, plane, y0)),
            g.base_strides[2], g.a_strides[2], g.b_strides[2], g.out_strides[2],
            y1 - y0, beta, 1.0f - beta};
}

template <typename T>
void plane_rows(const CompositeArgs& g, const Bands& all, i64 piece, i64 image, i64 plane, i64 from, i64 to) {
    for (const Band& band : all.bands) {
        const i64 y0 = std::max(band.y0, from), y1 = std::min(band.y1, to);
        if (y0 >= y1) continue;
        const Patch<T> p = patch_of<T>(g, image, plane, y0, y1);
        const Run* runs = all.runs.data();
#if defined(MIXAUG_AVX2)
        if (piece && band.runs.first != band.runs.last) {
            blocks_avx2(p, all.copies.data() + band.copies.first, band.copies.last - band.copies.first,
                        all.blends.data() + band.blends.first, band.blends.last - band.blends.first);
            for (size_t r = band.runs.first; r < band.runs.last; r++)
                if (runs[r].x1 - runs[r].x0 < piece) fill_columns(p, runs[r].x0, runs[r].x1);
            continue;
        }
#endif
        (void)piece;
        i64 x = 0;
        for (size_t r = band.runs.first; r < band.runs.last; r++) {
            copy_columns(p.base, p.base_row, p.out, p.out_row, p.rows, x, runs[r].x0);
            fill_columns(p, runs[r].x0, runs[r].x1);
            x = runs[r].x1;
        }
        copy_columns(p.base, p.base_row, p.out, p.out_row, p.rows, x, g.width);
    }
}

// Rows [from, to) of all rows of all planes of all images, in memory's order: `meet(image)` once for each image, which
// returns the elements of its union, then `write(image, plane, y0, y1)`.
template <typename Meet, typename Write>
void each_plane(const CompositeArgs& g, i64 from, i64 to, const Meet& meet, const Write& write) {
    i64 known = -1, area = 0;
    while (from < to) {
        const i64 plane_at = from / g.rows, y0 = from % g.rows, image = plane_at / g.planes, plane = plane_at % g.planes;
        const i64 y1 = std::min(g.rows, y0 + (to - from));
        if (image != known) area = meet(image);
        known = image;
        if (plane == 0 && y0 == 0) g.area[image] = area / g.inner;
        write(image, plane, y0, y1);
        from += y1 - y0;
    }
}

template <typename T>
void some_rows(const CompositeArgs& g, i64 from, i64 to) {
    const i64 block = 32 / static_cast<i64>(sizeof(T));
    const bool blocks = has_avx2() && g.width >= block;
    const i64 piece = g.b ? 8 : block;
    Bands bands;
    each_plane(
        g, from, to,
        [&](i64 image) {
            const i64* boxes = g.boxes + image * g.n_boxes * 4;
            bands.find(boxes, g.n_boxes, g.rows, g.width, g.inner, blocks ? block : 0, piece);
            return bands.area;
        },
        [&](i64 image, i64 plane, i64 y0, i64 y1) {
            plane_rows<T>(g, bands, blocks ? piece : 0, image, plane, y0, y1);
        });
}

#if defined(MIXAUG_AVX2)
template <typename T>
using MaskedRows = void (*)(const Patch<T>&, const u64*, u64);

template <typename T, MaskedRows<T> BLEND, MaskedRows<T> CUT>
void some_masked_rows(const CompositeArgs& g, i64 from, i64 to) {
    std::vector<u64> masks(static_cast<size_t>(g.rows + 7));
    const u64 row = ~u64{0} >> (MASK_BITS - g.width);
    each_plane(
        g, from, to, [&](i64 image) { return row_masks(g, image, masks.data()); },
        [&](i64 image, i64 plane, i64 y0, i64 y1) {
            (g.b ? BLEND : CUT)(patch_of<T>(g, image, plane, y0, y1), masks.data() + y0, row);
        });
}

template <int N>
constexpr auto some_masked_floats = some_masked_rows<float, masked_rows<N, true>, masked_rows<N, false>>;
template <int N>
constexpr auto some_masked_bytes = some_masked_rows<u8, masked_bytes<N, true>, masked_bytes<N, false>>;
#endif

using Work = void (*)(const CompositeArgs&, i64, i64);

Work work_on_floats(const CompositeArgs& g) {
#if defined(MIXAUG_AVX2)
    if (mixaug::isa() >= mixaug::Isa::avx512 && g.width <= MASK_BITS) {
        const Work works[] = {some_masked_floats<1>, some_masked_floats<2>, some_masked_floats<3>, some_masked_floats<4>};
        return works[(g.width - 1) / 16];
    }
#endif
    (void)g;
    return some_rows<float>;
}

Work work_on_bytes(const CompositeArgs& g) {
#if defined(MIXAUG_AVX2)
    if (mixaug::isa() >= mixaug::Isa::avx512 && g.width <= MASK_BITS) {
        const Work works[] = {some_masked_bytes<1>, some_masked_bytes<2>, some_masked_bytes<3>, some_masked_bytes<4>};
        return works[(g.width - 1) / 16];
    }
#endif
    (void)g;
    return some_rows<u8>;
}

}  // namespace

MIXAUG_API int mixaug_composite(const CompositeArgs* args) {
    const CompositeArgs& g = *args;
    if (g.inner <= 0 || g.n_boxes < 0) return MIXAUG_BAD_ARGUMENT;
    for (i64 i = 0; i < g.batch; i++) {
        if (g.index_a && (g.index_a[i] < 0 || g.index_a[i] >= g.count_a)) return MIXAUG_BAD_INDEX;
        if (g.index_b && (g.index_b[i] < 0 || g.index_b[i] >= g.count_b)) return MIXAUG_BAD_INDEX;
        if (g.b && !(g.beta[i] >= 0.0f && g.beta[i] <= 1.0f)) return MIXAUG_BAD_RECORD;
    }
    const i64 total = g.batch * g.planes * g.rows;
    if (total == 0 || g.width == 0) {
        for (i64 i = 0; i < g.batch; i++) g.area[i] = 0;
        return MIXAUG_DONE;
    }
    Work work = nullptr;
    i64 bytes = 0;
    switch (g.dtype) {
        case MIXAUG_U8: work = work_on_bytes(g), bytes = 1; break;
        case MIXAUG_F16: work = some_rows<Half>, bytes = 2; break;
        case MIXAUG_BF16: work = some_rows<BFloat>, bytes = 2; break;
        case MIXAUG_F32: work = work_on_floats(g), bytes = 4; break;
        default: return MIXAUG_BAD_ARGUMENT;
    }
    // Turns of about 256 KB: few enough that taking one costs nothing, small enough that the threads end together.
    const i64 turn = g.threads <= 1 ? total : std::max<i64>(1, (256 << 10) / (g.width * bytes));
    std::atomic<i64> next{0};
    std::atomic<int> failed{MIXAUG_DONE};
    auto loop = [&]() {
        try {
            for (i64 from = next.fetch_add(turn); from < total; from = next.fetch_add(turn))
                work(g, from, std::min(from + turn, total));
        } catch (const std::bad_alloc&) {
            failed = MIXAUG_NO_MEMORY;
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (i64 i = 1; i < std::min(g.threads, (total + turn - 1) / turn); i++) helpers.emplace_back(loop);
    } catch (const std::exception&) {
        // No thread to be had: the calling thread does the rest.
    }
    loop();
    for (auto& helper : helpers) helper.join();
    return failed;
}
