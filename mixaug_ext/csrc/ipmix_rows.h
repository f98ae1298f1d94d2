// The rows of ipmix.cpp, included once for each instruction set in a namespace of its own, between GCC's pragmas that
// choose it. Only the instructions differ, so all forms give the same bits.

// v in [0, 255], rounded half to even. Adding and subtracting 1.5 * 2^23 rounds in the current mode on every
// instruction set; nearbyintf would be a library call before SSE4.1.
inline float round_even(float v) {
    const float magic = 12582912.0f;
    return (v + magic) - magic;
}

inline u8 to_byte(float v) {
    v = v > 0.0f ? v : 0.0f;  // also sends NaN to 0
    v = v < 255.0f ? v : 255.0f;
    return static_cast<u8>(static_cast<int>(round_even(v)));
}

// PIL's Image.blend on bytes: float32, truncated towards zero after clipping.
inline u8 blend_byte(int degenerate, int value, float factor) {
    float v = static_cast<float>(degenerate) + factor * static_cast<float>(value - degenerate);
    v = v > 0.0f ? v : 0.0f;
    v = v < 255.0f ? v : 255.0f;
    return static_cast<u8>(static_cast<int>(v));
}

inline u8 luma(int r, int g, int b) { return static_cast<u8>((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16); }

// 32-bit finaliser (multiply-xorshift) over a counter; the same integers on every device.
inline u32 mix32(u32 x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

inline u32 counter_hash(u32 index, u32 lo, u32 hi) { return mix32(mix32(index ^ lo) + hi); }

struct Image {  // planar bytes (C, H, W)
    int c, h, w;
    i64 plane() const { return static_cast<i64>(h) * w; }
};

// ------------------------------------------------------------------ colour: one table a channel

void histogram(const u8* plane, i64 n, u32* out) {
    if (n < 4096) {  // a small image: clearing and adding four tables would cost more than the waiting
        std::memset(out, 0, 256 * sizeof(u32));
        for (i64 i = 0; i < n; i++) out[plane[i]]++;
        return;
    }
    // Four interleaved histograms: neighbouring pixels are often equal, and one counter would wait for its own store.
    u32 part[4][256];
    std::memset(part, 0, sizeof(part));
    i64 i = 0;
    for (; i + 4 <= n; i += 4) {
        part[0][plane[i]]++;
        part[1][plane[i + 1]]++;
        part[2][plane[i + 2]]++;
        part[3][plane[i + 3]]++;
    }
    for (; i < n; i++) part[0][plane[i]]++;
    for (int v = 0; v < 256; v++) out[v] = part[0][v] + part[1][v] + part[2][v] + part[3][v];
}

// Counts fit 32 bits (an image has under 2^31 pixels), and a 32-bit division takes a third of a 64-bit one's time.
void equalize_table(const u32* h, u8* lut) {
    u32 total = 0, last = 0;
    for (int v = 0; v < 256; v++) {
        total += h[v];
        last = h[v] ? h[v] : last;
    }
    const u32 step = (total - last) / 255;  // 0 when one value holds every pixel
    if (!step) {
        for (int v = 0; v < 256; v++) lut[v] = static_cast<u8>(v);
        return;
    }
    u32 n = step / 2;
    for (int v = 0; v < 256; v++) {
        lut[v] = static_cast<u8>(std::min<u32>(n / step, 255));
        n += h[v];
    }
}

void autocontrast_table(u32* h, i64 total, double level, u8* lut) {
    const u32 cut_each = static_cast<u32>(std::floor(static_cast<double>(total) * (10.0 - level) / 100.0));
    u32 cut = cut_each;
    for (int v = 0; v < 256 && cut > 0; v++) { const u32 d = std::min(cut, h[v]); h[v] -= d; cut -= d; }
    cut = cut_each;
    for (int v = 255; v >= 0 && cut > 0; v--) { const u32 d = std::min(cut, h[v]); h[v] -= d; cut -= d; }
    int lo = 0, hi = 255;
    while (lo < 255 && !h[lo]) lo++;
    while (hi > 0 && !h[hi]) hi--;
    if (hi <= lo) {
        for (int v = 0; v < 256; v++) lut[v] = static_cast<u8>(v);
        return;
    }
    const double scale = 255.0 / (hi - lo), offset = -lo * scale;
    for (int v = 0; v < 256; v++) {
        const double t = v * scale + offset;
        lut[v] = static_cast<u8>(std::min(255, std::max(0, static_cast<int>(t))));
    }
}

i64 grey_sum(const u8* src, Image im) {
    const i64 n = im.plane();
    i64 sum = 0;
    if (im.c == 1) {
        for (i64 i = 0; i < n; i++) sum += src[i];
    } else {
        for (i64 i = 0; i < n; i++) sum += luma(src[i], src[n + i], src[2 * n + i]);
    }
    return sum;
}

void apply_table(const u8* src, u8* dst, const u8* lut, int w, Box b) {
    if (b.x0 == 0 && b.x1 == w) {
        for (i64 i = static_cast<i64>(b.y0) * w, e = static_cast<i64>(b.y1) * w; i < e; i++) dst[i] = lut[src[i]];
        return;
    }
    for (int y = b.y0; y < b.y1; y++)
        for (int x = b.x0; x < b.x1; x++) dst[static_cast<i64>(y) * w + x] = lut[src[static_cast<i64>(y) * w + x]];
}

// Posterize, solarize, invert and brightness are arithmetic on one byte: computed, not looked up, so that the compiler
// uses vectors (224 px: 10 us a plane with a table, 1 us computed).
template <typename F>
inline void per_byte(const u8* src, u8* dst, int w, Box b, F f) {
    const bool whole = b.x0 == 0 && b.x1 == w;
    const int rows = whole ? 1 : b.y1 - b.y0;
    const i64 run = whole ? static_cast<i64>(b.y1 - b.y0) * w : b.x1 - b.x0;
    for (int r = 0; r < rows; r++) {
        const i64 at = static_cast<i64>(b.y0 + r) * w + b.x0;
        const u8* s = src + at;
        u8* d = dst + at;
        for (i64 i = 0; i < run; i++) d[i] = f(s[i]);
    }
}

void posterize(const u8* s, u8* d, int w, Box b, int mask) {
    per_byte(s, d, w, b, [mask](u8 v) { return static_cast<u8>(v & mask); });
}
void solarize(const u8* s, u8* d, int w, Box b, int threshold) {
    per_byte(s, d, w, b, [threshold](u8 v) { return static_cast<u8>(v < threshold ? v : 255 - v); });
}
void blend_with(const u8* s, u8* d, int w, Box b, int degenerate, float factor) {
    per_byte(s, d, w, b, [degenerate, factor](u8 v) { return blend_byte(degenerate, v, factor); });
}

void color(const u8* src, u8* dst, Image im, Box b, float factor) {
    const i64 n = im.plane();
    for (int y = b.y0; y < b.y1; y++)
        for (i64 i = static_cast<i64>(y) * im.w + b.x0, e = static_cast<i64>(y) * im.w + b.x1; i < e; i++) {
            const int grey = luma(src[i], src[n + i], src[2 * n + i]);
            for (int c = 0; c < 3; c++) dst[c * n + i] = blend_byte(grey, src[c * n + i], factor);
        }
}

void sharpness(const u8* src, u8* dst, int h, int w, Box b, float factor) {
    for (int y = b.y0; y < b.y1; y++) {
        const u8* row = src + static_cast<i64>(y) * w;
        u8* out = dst + static_cast<i64>(y) * w;
        if (y == 0 || y == h - 1 || w < 3) {  // PIL's 3x3 filter copies the border
            std::memcpy(out + b.x0, row + b.x0, b.x1 - b.x0);
            continue;
        }
        const int from = std::max(b.x0, 1), to = std::min(b.x1, w - 1);
        if (b.x0 == 0) out[0] = row[0];
        if (b.x1 == w) out[w - 1] = row[w - 1];
        const u8 *up = row - w, *down = row + w;
        for (int x = from; x < to; x++) {
            const int sum = up[x - 1] + up[x] + up[x + 1] + row[x - 1] + 5 * row[x] + row[x + 1] + down[x - 1] +
                            down[x] + down[x + 1];
            out[x] = blend_byte((2 * sum + 13) / 26, row[x], factor);
        }
    }
}

// ------------------------------------------------------------------ geometry: one affine warp

// Source coordinate of the pixel centre (x + 1/2, y + 1/2) in 2^-32 pixels: ((a (2x+1) + b (2y+1)) >> 1) + c.
struct Affine { i64 a, b, c, d, e, f; };

const i64 ONE = i64(1) << 32;

inline i64 fixed(double v) { return static_cast<i64>(std::nearbyint(v * 4294967296.0)); }

Affine affine(i64 op, double level, double sign, int h, int w) {
    switch (op) {
        case MIRROR: return {-ONE, 0, static_cast<i64>(w) * ONE, 0, ONE, 0};
        case ROTATE: {
            const double angle = sign * static_cast<int>(3.0 * level) * (3.14159265358979323846 / 180.0);
            const double co = std::cos(angle), si = std::sin(angle);
            if (static_cast<int>(3.0 * level) == 0) return {ONE, 0, 0, 0, ONE, 0};
            return {fixed(co), fixed(-si), fixed(-0.5 * w * co + 0.5 * h * si + 0.5 * w),
                    fixed(si), fixed(co), fixed(-0.5 * w * si - 0.5 * h * co + 0.5 * h)};
        }
        case SHEAR_X: return {ONE, fixed(sign * 0.03 * level), 0, 0, ONE, 0};
        case SHEAR_Y: return {ONE, 0, 0, fixed(sign * 0.03 * level), ONE, 0};
        case TRANSLATE_X: return {ONE, 0, static_cast<i64>(sign) * static_cast<i64>(level * w / 30.0) * ONE, 0, ONE, 0};
        default: return {ONE, 0, 0, 0, ONE, static_cast<i64>(sign) * static_cast<i64>(level * h / 30.0) * ONE};
    }
}

// Fraction bits of the bilinear weights: 11 keep the product of two weights and a byte in 32 bits.
const int BITS = 11;
const i64 HALF = ONE / 2, ROUND = i64(1) << (31 - BITS);
const i32 UNIT = 1 << BITS;

struct Tap { i32 index; i32 frac; bool inside; };

inline Tap tap(i64 coordinate, int size) {
    const i64 shifted = coordinate - HALF + ROUND;
    return {static_cast<i32>(shifted >> 32), static_cast<i32>((shifted >> (32 - BITS)) & (UNIT - 1)),
            coordinate >= 0 && coordinate < static_cast<i64>(size) * ONE};
}

inline i32 clampi(i32 v, i32 hi) { return v < 0 ? 0 : (v > hi ? hi : v); }

void blend_rows(const u8* __restrict p, const u8* __restrict q, u8* __restrict out, i64 n, i32 frac) {
    for (i64 i = 0; i < n; i++) out[i] = static_cast<u8>((p[i] * (UNIT - frac) + q[i] * frac) >> BITS);
}

// a = 1 and d = 0: every row is a shifted row (mirror excluded), with one fraction a row.
void warp_shifted_rows(const u8* src, u8* dst, Image im, Box b, const Affine& m) {
    const i64 n = im.plane();
    for (int y = b.y0; y < b.y1; y++) {
        const Tap ty = tap(((m.e * (2 * y + 1)) >> 1) + m.f, im.h);
        const i64 x_first = ((m.a + m.b * (2 * static_cast<i64>(y) + 1)) >> 1) + m.c;  // coordinate of x = 0
        const Tap t0 = tap(x_first, im.w);
        // Columns whose coordinate lies in [0, w): coordinate(x) = x_first + x.
        i64 from = x_first < 0 ? (-x_first + ONE - 1) >> 32 : 0;
        i64 to = ((static_cast<i64>(im.w) * ONE - x_first - 1) >> 32) + 1;
        from = std::min<i64>(std::max<i64>(from, b.x0), b.x1);
        to = std::max<i64>(from, std::min<i64>(to, b.x1));
        if (!ty.inside) to = from = b.x0;
        const int row = clampi(ty.index, im.h - 1);
        for (int c = 0; c < im.c; c++) {
            const u8* s = src + c * n + static_cast<i64>(row) * im.w;
            u8* d = dst + c * n + static_cast<i64>(y) * im.w;
            std::memset(d + b.x0, 0, from - b.x0);
            std::memset(d + to, 0, b.x1 - to);
            if (from >= to) continue;
            if (t0.frac == 0) {
                // index 'from + t0.index' can be -1 or w only through the rounding of the fraction; clamp both ends
                i64 x = from;
                for (; x < to && x + t0.index < 0; x++) d[x] = s[0];
                const i64 end = std::max(x, std::min<i64>(to, im.w - t0.index));
                std::memcpy(d + x, s + x + t0.index, end - x);
                for (x = end; x < to; x++) d[x] = s[im.w - 1];
                continue;
            }
            // interior: both taps inside the row
            const i64 in_from = std::min<i64>(std::max<i64>(from, -t0.index), to);
            const i64 in_to = std::max<i64>(in_from, std::min<i64>(to, im.w - 1 - t0.index));
            auto edge = [&](i64 x) {
                const i32 i0 = clampi(static_cast<i32>(x) + t0.index, im.w - 1);
                const i32 i1 = clampi(static_cast<i32>(x) + t0.index + 1, im.w - 1);
                d[x] = static_cast<u8>((s[i0] * (UNIT - t0.frac) + s[i1] * t0.frac) >> BITS);
            };
            for (i64 x = from; x < in_from; x++) edge(x);
            blend_rows(s + in_from + t0.index, s + in_from + t0.index + 1, d + in_from, in_to - in_from, t0.frac);
            for (i64 x = in_to; x < to; x++) edge(x);
        }
    }
}

// out[i] = p[i] + (q[i] - p[i]) frac[i], with a fraction a column.
void blend_columns(const u8* __restrict p, const u8* __restrict q, u8* __restrict out, i64 n, const i32* __restrict frac) {
    for (i64 i = 0; i < n; i++) out[i] = static_cast<u8>((p[i] * (UNIT - frac[i]) + q[i] * frac[i]) >> BITS);
}

// a = e = 1, b = c = 0 (shear_y): a column moves by a constant, so shift and fraction are per column, and neighbouring
// columns with the same shift are blended as pieces of two rows.
void warp_shear_y(const u8* src, u8* dst, Image im, Box b, const Affine& m, std::vector<i32>& scratch) {
    scratch.resize(static_cast<size_t>(im.w) * 4);
    i32 *shift = scratch.data(), *frac = shift + im.w, *first = frac + im.w, *last = first + im.w;
    for (int x = b.x0; x < b.x1; x++) {
        const i64 y_first = ((m.d * (2 * static_cast<i64>(x) + 1) + m.e) >> 1) + m.f;  // coordinate of y = 0
        const Tap t = tap(y_first, im.h);
        shift[x] = t.index;
        frac[x] = t.frac;
        first[x] = static_cast<i32>(y_first < 0 ? (-y_first + ONE - 1) >> 32 : 0);
        last[x] = static_cast<i32>(((static_cast<i64>(im.h) * ONE - y_first - 1) >> 32) + 1);
    }
    const i64 n = im.plane();
    for (int from = b.x0, to; from < b.x1; from = to) {
        int low = first[from], high = last[from];
        for (to = from + 1; to < b.x1 && shift[to] == shift[from]; to++) {
            low = std::max(low, first[to]);
            high = std::min(high, last[to]);
        }
        // Rows in which every column of the run is inside and no tap needs clamping.
        low = std::max(low, -shift[from]);
        high = std::min(high, im.h - 1 - shift[from]);
        for (int c = 0; c < im.c; c++) {
            const u8* s = src + c * n;
            for (int y = b.y0; y < b.y1; y++) {
                u8* out = dst + c * n + static_cast<i64>(y) * im.w;
                if (y >= low && y < high) {
                    const u8* p = s + static_cast<i64>(y + shift[from]) * im.w + from;
                    blend_columns(p, p + im.w, out + from, to - from, frac + from);
                    continue;
                }
                for (int x = from; x < to; x++) {
                    const i64 i0 = clampi(y + shift[x], im.h - 1), i1 = clampi(y + shift[x] + 1, im.h - 1);
                    const i32 v = (s[i0 * im.w + x] * (UNIT - frac[x]) + s[i1 * im.w + x] * frac[x]) >> BITS;
                    out[x] = static_cast<u8>(y >= first[x] && y < last[x] ? v : 0);
                }
            }
        }
    }
}

inline u8 bilinear(const u8* s, i64 r0, i64 r1, i32 x0, i32 x1, i32 fx, i32 fy) {
    const i32 top = s[r0 + x0] * (UNIT - fx) + s[r0 + x1] * fx;
    const i32 bottom = s[r1 + x0] * (UNIT - fx) + s[r1 + x1] * fx;
    return static_cast<u8>((top * (UNIT - fy) + bottom * fy) >> (2 * BITS));
}

// Whole rows at a time: coordinates first (vectorised), then a plane after the other, so that a plane's rows stay in
// the first cache and the compiler keeps the taps in registers.
void warp_general(const u8* src, u8* dst, Image im, Box b, const Affine& m) {
    const i64 n = im.plane();
    const int block = 256;
    i32 at[block], frac_x[block], frac_y[block];
    for (int y = b.y0; y < b.y1; y++)
        for (int from = b.x0; from < b.x1; from += block) {
            const int run = std::min(block, b.x1 - from);
            const i64 x_first = ((m.a * (2 * static_cast<i64>(from) + 1) + m.b * (2 * static_cast<i64>(y) + 1)) >> 1) + m.c;
            const i64 y_first = ((m.d * (2 * static_cast<i64>(from) + 1) + m.e * (2 * static_cast<i64>(y) + 1)) >> 1) + m.f;
            int inner_from = run, inner_to = 0;  // the pixels whose four taps need no clamping: one interval
            for (int i = 0; i < run; i++) {
                const Tap tx = tap(x_first + m.a * i, im.w), ty = tap(y_first + m.d * i, im.h);
                const bool inner = tx.index >= 0 && tx.index < im.w - 1 && ty.index >= 0 && ty.index < im.h - 1;
                at[i] = ty.index * im.w + tx.index;
                frac_x[i] = tx.frac;
                frac_y[i] = ty.frac;
                inner_from = inner && i < inner_from ? i : inner_from;
                inner_to = inner ? i + 1 : inner_to;
            }
            inner_from = std::min(inner_from, inner_to);
            for (int c = 0; c < im.c; c++) {
                const u8* s = src + c * n;
                u8* d = dst + c * n + static_cast<i64>(y) * im.w + from;
                auto edge = [&](int i) {
                    const Tap tx = tap(x_first + m.a * i, im.w), ty = tap(y_first + m.d * i, im.h);
                    const i64 r0 = static_cast<i64>(clampi(ty.index, im.h - 1)) * im.w;
                    const i64 r1 = static_cast<i64>(clampi(ty.index + 1, im.h - 1)) * im.w;
                    const i32 x0 = clampi(tx.index, im.w - 1), x1 = clampi(tx.index + 1, im.w - 1);
                    d[i] = tx.inside && ty.inside ? bilinear(s, r0, r1, x0, x1, tx.frac, ty.frac) : u8(0);
                };
                for (int i = 0; i < inner_from; i++) edge(i);
                for (int i = inner_from; i < inner_to; i++)
                    d[i] = bilinear(s + at[i], 0, im.w, 0, 1, frac_x[i], frac_y[i]);
                for (int i = inner_to; i < run; i++) edge(i);
            }
        }
}

void mirror(const u8* src, u8* dst, Image im, Box b) {
    const i64 n = im.plane();
    for (int c = 0; c < im.c; c++)
        for (int y = b.y0; y < b.y1; y++) {
            const u8* s = src + c * n + static_cast<i64>(y) * im.w;
            u8* d = dst + c * n + static_cast<i64>(y) * im.w;
            std::reverse_copy(s + (im.w - b.x1), s + (im.w - b.x0), d + b.x0);
        }
}

// ------------------------------------------------------------------ one image-level operation

void copy_box(const u8* src, u8* dst, Image im, Box b) {
    const i64 n = im.plane();
    if (b.x0 == 0 && b.x1 == im.w && b.y0 == 0 && b.y1 == im.h) {
        std::memcpy(dst, src, static_cast<size_t>(im.c) * n);
        return;
    }
    for (int c = 0; c < im.c; c++)
        for (int y = b.y0; y < b.y1; y++) {
            const i64 at = c * n + static_cast<i64>(y) * im.w + b.x0;
            std::memcpy(dst + at, src + at, b.x1 - b.x0);
        }
}

// Writes dst inside box b only: a self-mixing step needs the operation just where its patch lies.
void image_operation(i64 op, double level, double sign, const u8* src, u8* dst, Image im, Box b,
                     std::vector<i32>& scratch) {
    const i64 n = im.plane();
    const float factor = static_cast<float>(0.18 * level + 0.1);
    switch (op) {
        case EQUALIZE:
        case AUTOCONTRAST:
            for (int c = 0; c < im.c; c++) {
                u32 h[256];
                u8 lut[256];
                histogram(src + c * n, n, h);
                if (op == EQUALIZE) equalize_table(h, lut);
                else autocontrast_table(h, n, level, lut);
                apply_table(src + c * n, dst + c * n, lut, im.w, b);
            }
            return;
        case POSTERIZE: {
            const int bits = std::max(0, 4 - static_cast<int>(0.4 * level));
            for (int c = 0; c < im.c; c++) posterize(src + c * n, dst + c * n, im.w, b, 256 - (1 << (8 - bits)));
            return;
        }
        case SOLARIZE:
        case INVERT: {
            const int threshold = op == INVERT ? 0 : 256 - static_cast<int>(25.6 * level);
            for (int c = 0; c < im.c; c++) solarize(src + c * n, dst + c * n, im.w, b, threshold);
            return;
        }
        case BRIGHTNESS:
        case CONTRAST: {
            const int grey = op == BRIGHTNESS ? 0
                : static_cast<int>(static_cast<double>(grey_sum(src, im)) / static_cast<double>(n) + 0.5);
            for (int c = 0; c < im.c; c++) blend_with(src + c * n, dst + c * n, im.w, b, grey, factor);
            return;
        }
        case COLOR:
            if (im.c == 3) color(src, dst, im, b, factor);
            else copy_box(src, dst, im, b);  // a grey image is its own grey
            return;
        case SHARPNESS:
            for (int c = 0; c < im.c; c++) sharpness(src + c * n, dst + c * n, im.h, im.w, b, factor);
            return;
        case MIRROR: mirror(src, dst, im, b); return;
        default: break;
    }
    const Affine m = affine(op, level, sign, im.h, im.w);
    if (m.a == ONE && m.d == 0 && m.e == ONE) warp_shifted_rows(src, dst, im, b, m);
    else if (op == SHEAR_Y) warp_shear_y(src, dst, im, b, m, scratch);
    else warp_general(src, dst, im, b, m);
}

// ------------------------------------------------------------------ one patch- or pixel-level mixing

struct Source { const u8* p; i64 channel, row; };  // strides in bytes; the column stride is 1

void mix_add(u8* __restrict u, const u8* __restrict s, int n, float ka, float kb, float k0) {
    for (int i = 0; i < n; i++)
        u[i] = to_byte(static_cast<float>(u[i]) * ka + (static_cast<float>(s[i]) * kb + k0));
}

// Two loops: look-ups stay scalar, and the conversion after them is vectorised.
void mix_multiply(u8* __restrict u, const u8* __restrict s, int n, const float* __restrict tu, const float* __restrict ts) {
    float product[256];
    for (int from = 0; from < n; from += 256) {
        const int run = std::min(256, n - from);
        for (int i = 0; i < run; i++) product[i] = tu[u[from + i]] * ts[s[from + i]];
        for (int i = 0; i < run; i++) u[from + i] = to_byte(product[i]);
    }
}

// The choice is made in 32 bits: choosing between bytes keeps GCC 12 from vectorising the hash (5.2 to 0.5 ns a value).
void mix_random(u8* __restrict u, const u8* __restrict s, int n, u32 index, u32 lo, u32 hi, u32 threshold) {
    for (int i = 0; i < n; i++) {
        const u32 own = u[i], other = s[i];
        u[i] = static_cast<u8>((counter_hash(index + i, lo, hi) >> 8) < threshold ? own : other);
    }
}

void mixing(i64 op, float a, float b, float keep, i64 seed, u8* cur, Source s, Image im, Box box) {
    const int run = box.x1 - box.x0;
    const i64 n = im.plane();
    float tu[256], ts[256];
    if (op == MULTIPLY) {
        // (2u)^a (2s)^b / 2 in 8-bit units: 127.5 * 2^(a log2 2u) * 2^(b log2 2s), exponents in double, product in float.
        static const struct Logs {
            double of[256];
            Logs() { for (int v = 0; v < 256; v++) of[v] = std::log2(v ? 2.0 * v / 255.0 : 1e-37); }
        } logs;
        for (int v = 0; v < 256; v++) {
            tu[v] = static_cast<float>(127.5 * std::exp2(static_cast<double>(a) * logs.of[v]));
            ts[v] = static_cast<float>(std::exp2(static_cast<double>(b) * logs.of[v]));
        }
        tu[0] = a == 0.0f ? 127.5f : 0.0f;  // u itself is not clipped: 0^a = 0
    }
    const u32 lo = static_cast<u32>(seed), hi = static_cast<u32>(static_cast<std::uint64_t>(seed) >> 32);
    const u32 threshold = static_cast<u32>(keep * 16777216.0f);
    // ((2u-1) a + (2s-1) b + 1)/2 in 8-bit units: u a + (s b + 127.5 (1 - a - b))
    const float k0 = 127.5f * ((1.0f - a) - b);
    for (int c = 0; c < im.c; c++)
        for (int y = box.y0; y < box.y1; y++) {
            const i64 at = static_cast<i64>(y) * im.w + box.x0;
            u8* u = cur + c * n + at;
            const u8* q = s.p + c * s.channel + y * s.row + box.x0;
            if (op == ADD) mix_add(u, q, run, a, b, k0);
            else if (op == MULTIPLY) mix_multiply(u, q, run, tu, ts);
            else mix_random(u, q, run, static_cast<u32>(op == RANDOM_PIXELS ? at : c * n + at), lo, hi, threshold);
        }
}

// ------------------------------------------------------------------ entry and exit

// An image as runs of values whose stride is 1: the whole image when it is contiguous, else its rows; a row with
// another stride (channels_last) is gathered into a buffer first.
struct Layout {
    i64 c, h, w;  // strides in elements
    bool flat(Image im) const { return w == 1 && h == im.w && (c == im.plane() || im.c == 1); }
};

const int RUN = 1024;

inline u8 quantise(u8 v) { return v; }
inline u8 quantise(float v) { return to_byte(v * 255.0f); }

template <typename T>
inline void load_run(const T* __restrict s, u8* __restrict d, i64 n) {
    for (i64 i = 0; i < n; i++) d[i] = quantise(s[i]);
}

template <typename T>
inline void load(const T* x, u8* q, Image im, Layout in) {
    if (in.flat(im)) return load_run(x, q, im.plane() * im.c);
    for (int c = 0; c < im.c; c++)
        for (int y = 0; y < im.h; y++) {
            const T* s = x + c * in.c + y * in.h;
            u8* d = q + (static_cast<i64>(c) * im.h + y) * im.w;
            if (in.w == 1) load_run(s, d, im.w);
            else for (int i = 0; i < im.w; i++) d[i] = quantise(s[i * in.w]);
        }
}
void load_f32(const float* x, u8* q, Image im, Layout in) { load(x, q, im, in); }
void load_u8(const u8* x, u8* q, Image im, Layout in) { load(x, q, im, in); }

// out = cx x + sum_i coef_i chain_i, summed in this order; coefficients hold m w_i (bytes) or m w_i / 255 (floats).
template <typename T>
inline void store_run(const T* __restrict s, T* __restrict d, i64 n, i64 at, float cx, const float* coef,
                      const u8* const* chain, int chains) {
    const bool bytes = sizeof(T) == 1;
    float acc[RUN];
    for (i64 from = 0; from < n; from += RUN) {
        const int run = static_cast<int>(std::min<i64>(RUN, n - from));
        for (int i = 0; i < run; i++) acc[i] = cx * static_cast<float>(s[from + i]);
        for (int k = 0; k < chains; k++) {
            const u8* __restrict p = chain[k] + at + from;
            const float w = coef[k];
            for (int i = 0; i < run; i++) acc[i] = acc[i] + w * static_cast<float>(p[i]);
        }
        if (bytes) {
            for (int i = 0; i < run; i++) d[from + i] = static_cast<T>(to_byte(acc[i]));
        } else {
            for (int i = 0; i < run; i++) {
                const float v = acc[i] > 0.0f ? acc[i] : 0.0f;
                d[from + i] = static_cast<T>(v < 1.0f ? v : 1.0f);
            }
        }
    }
}

template <typename T>
inline void store(const T* x, T* out, Image im, Layout in, Layout to, float cx, const float* coef,
                  const u8* const* chain, int chains) {
    if (in.flat(im) && to.flat(im)) return store_run(x, out, im.plane() * im.c, 0, cx, coef, chain, chains);
    T gathered[RUN], result[RUN];
    for (int c = 0; c < im.c; c++)
        for (int y = 0; y < im.h; y++)
            for (int x0 = 0; x0 < im.w; x0 += RUN) {
                const int run = std::min(RUN, im.w - x0);
                const T* s = x + c * in.c + y * in.h + x0 * in.w;
                T* d = out + c * to.c + y * to.h + x0 * to.w;
                const i64 at = (static_cast<i64>(c) * im.h + y) * im.w + x0;
                if (in.w != 1) {
                    for (int i = 0; i < run; i++) gathered[i] = s[i * in.w];
                    s = gathered;
                }
                store_run(s, to.w == 1 ? d : result, run, at, cx, coef, chain, chains);
                if (to.w != 1) for (int i = 0; i < run; i++) d[i * to.w] = result[i];
            }
}
void store_f32(const float* x, float* o, Image im, Layout in, Layout to, float cx, const float* coef,
                             const u8* const* chain, int k) {
    store(x, o, im, in, to, cx, coef, chain, k);
}
void store_u8(const u8* x, u8* o, Image im, Layout in, Layout to, float cx, const float* coef,
                            const u8* const* chain, int k) {
    store(x, o, im, in, to, cx, coef, chain, k);
}

// The patch of a picture that the mixing step needs, as planes of the image's size: enlarged from the bank's side to
// g.side (bilinear, pixel centres aligned, rounded), and as luma for grey images. Only the box is computed.
Source picture_source(const IPMixArgs& g, i64 r, Image im, Box box, Scratch& s) {
    const i64 plane = g.bank * g.bank;
    const u8* p = g.pictures + g.picture[r] * 3 * plane;
    const bool enlarge = g.bank != g.side;
    if (!enlarge) {
        p += g.top[r] * g.side + g.left[r];
        if (im.c == 3) return {p, plane, g.side};
    }
    const int size = static_cast<int>(g.bank);
    auto taps = [&](i64 at) { return tap((((2 * at + 1) * g.bank) << 31) / g.side, size); };
    s.columns.resize(static_cast<size_t>(im.w) * 3);
    i32 *first = s.columns.data(), *second = first + im.w, *frac = second + im.w;
    if (enlarge)
        for (int x = box.x0; x < box.x1; x++) {
            const Tap t = taps(g.left[r] + x);
            first[x] = clampi(t.index, size - 1);
            second[x] = clampi(t.index + 1, size - 1);
            frac[x] = t.frac;
        }
    const i64 n = im.plane();
    for (int y = box.y0; y < box.y1; y++) {
        u8* out = s.source.data() + static_cast<i64>(y) * im.w;
        if (!enlarge) {
            const u8* q = p + y * g.side;
            for (int x = box.x0; x < box.x1; x++) out[x] = luma(q[x], q[plane + x], q[2 * plane + x]);
            continue;
        }
        const Tap t = taps(g.top[r] + y);
        const u8* upper = p + static_cast<i64>(clampi(t.index, size - 1)) * size;
        const u8* lower = p + static_cast<i64>(clampi(t.index + 1, size - 1)) * size;
        for (int x = box.x0; x < box.x1; x++) {
            int value[3];
            for (int c = 0; c < 3; c++) {
                const u8 *a = upper + c * plane, *b = lower + c * plane;
                const i32 high = a[first[x]] * (UNIT - frac[x]) + a[second[x]] * frac[x];
                const i32 low = b[first[x]] * (UNIT - frac[x]) + b[second[x]] * frac[x];
                value[c] = (high * (UNIT - t.frac) + low * t.frac + (1 << (2 * BITS - 1))) >> (2 * BITS);
            }
            if (im.c == 1) out[x] = luma(value[0], value[1], value[2]);
            else for (int c = 0; c < 3; c++) out[c * n + x] = static_cast<u8>(value[c]);
        }
    }
    return {s.source.data(), n, im.w};
}

void run_row(const IPMixArgs& g, i64 r, Scratch& s) {
    const Image im{static_cast<int>(g.channels), static_cast<int>(g.height), static_cast<int>(g.width)};
    const i64 n = im.plane(), size = n * im.c;
    const Box all{0, 0, im.w, im.h};
    const Layout in{g.in_strides[1], g.in_strides[2], g.in_strides[3]};
    const Layout to{g.out_strides[1], g.out_strides[2], g.out_strides[3]};
    const i64 image = r % g.batch;
    const auto* xf = static_cast<const float*>(g.images) + image * g.in_strides[0];
    const auto* xb = static_cast<const u8*>(g.images) + image * g.in_strides[0];
    if (g.is_float) load_f32(xf, s.base.data(), im, in);
    else load_u8(xb, s.base.data(), im, in);

    std::vector<const u8*> result;
    std::vector<float> coef;
    const u8* start = s.base.data();
    for (i64 i = 0; i < g.k; i++) {
        const i64 depth = g.depth[r * g.k + i];
        const u8* cur = start;  // nothing of this chain written yet
        std::vector<u8>& mine = s.chain[i];
        for (i64 j = 0; j < depth; j++) {
            const i64 at = (r * g.k + i) * g.t + j;
            const i64 op = g.op[at];
            if (op < ADD) {
                // Into the buffer that does not hold the running result.
                std::vector<u8>& target = cur == mine.data() ? s.spare : mine;
                image_operation(op, g.level[at], static_cast<double>(g.sign[at]), cur, target.data(), im, all, s.columns);
                if (&target == &s.spare) std::swap(mine, s.spare);
                cur = mine.data();
                continue;
            }
            if (cur != mine.data()) {
                std::memcpy(mine.data(), cur, size);
                cur = mine.data();
            }
            const i64* bx = g.box + at * 4;
            const Box box{static_cast<int>(bx[0]), static_cast<int>(bx[1]), static_cast<int>(bx[2]), static_cast<int>(bx[3])};
            Source src;
            if (g.source[at] >= 0) {
                image_operation(g.source[at], g.level[at], static_cast<double>(g.sign[at]), s.base.data(),
                                s.source.data(), im, box, s.columns);
                src = {s.source.data(), n, im.w};
            } else {
                src = picture_source(g, r, im, box, s);
            }
            mixing(op, g.a[at], g.b[at], g.keep[at], g.seed[at], mine.data(), src, im, box);
        }
        if (g.mixed_input) start = cur;
        if (cur != s.base.data()) {  // a chain without a step is the unquantised image: it is part of 'skip'
            result.push_back(cur);
            coef.push_back(g.coef[r * g.k + i]);
        }
    }
    if (g.is_float)
        store_f32(xf, static_cast<float*>(g.out) + r * g.out_strides[0], im, in, to, g.skip[r],
                  coef.data(), result.data(), static_cast<int>(result.size()));
    else
        store_u8(xb, static_cast<u8*>(g.out) + r * g.out_strides[0], im, in, to, g.skip[r],
                 coef.data(), result.data(), static_cast<int>(result.size()));
}
