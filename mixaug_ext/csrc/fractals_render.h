// Rendering of fractals.cpp, included once for each instruction set in a namespace of its own, between GCC's pragmas that
// choose it: a function of another set would have its vectors taken apart before it is inlined.

// --- lanes: W numbers of type T at once. Without GCC's vectors (MSVC) W is 1.

#if defined(__GNUC__)
#define MIXAUG_INLINE inline __attribute__((always_inline))
template <class T> constexpr int WIDTH = MIXAUG_BYTES / sizeof(T);
template <class T> struct IntegerOf;
template <> struct IntegerOf<float> { using type = i32; };
template <> struct IntegerOf<double> { using type = i64; };
template <class T, int W> struct Lanes {
    typedef T V __attribute__((vector_size(sizeof(T) * W)));
    typedef typename IntegerOf<T>::type M __attribute__((vector_size(sizeof(T) * W)));  // of a comparison: 0 or -1
    static MIXAUG_INLINE V load(const T* from) {
        V v;
        std::memcpy(&v, from, sizeof(v));
        return v;
    }
    static MIXAUG_INLINE void store(T* to, V v) { std::memcpy(to, &v, sizeof(v)); }
    static MIXAUG_INLINE V all(T value) { return V{} + value; }
    static MIXAUG_INLINE V abs(V v) {
        M bits;
        std::memcpy(&bits, &v, sizeof(v));
        bits &= ~(M{} + std::numeric_limits<typename IntegerOf<T>::type>::min());
        std::memcpy(&v, &bits, sizeof(v));
        return v;
    }
    static MIXAUG_INLINE V sqrt(V v) {
        V root;
        for (int i = 0; i < W; i++) root[i] = std::sqrt(v[i]);
        return root;
    }
};
#else
#define MIXAUG_INLINE inline
template <class T> constexpr int WIDTH = 1;
template <class T, int W> struct Lanes {
    using V = T;
    using M = bool;
    static V load(const T* from) { return *from; }
    static void store(T* to, V v) { *to = v; }
    static V all(T value) { return value; }
    static V abs(V v) { return std::fabs(v); }
    static V sqrt(V v) { return std::sqrt(v); }
};
#endif

// --- maps

template <class V> MIXAUG_INLINE Complex<V> times(V a, V b, V p, V q) { return {a * p - b * q, a * q + b * p}; }

template <class V> MIXAUG_INLINE Complex<V> power(i64 degree, V a, V b) {
    const Complex<V> square = times(a, b, a, b);
    Complex<V> even = square;
    if (degree >= 4) even = times(square.x, square.y, square.x, square.y);
    return degree & 1 ? times(even.x, even.y, a, b) : even;
}

template <class V> MIXAUG_INLINE Complex<V> pole(i64 m, V a, V b, V cx, V cy, V tiny) {
    Complex<V> p{a, b};
    if (m >= 2) p = times(a, b, a, b);
    if (m == 3) p = times(p.x, p.y, a, b);
    const V norm = (p.x * p.x + p.y * p.y) + tiny;
    return times(cx, cy, p.x / norm, -p.y / norm);
}

template <class V> struct Polynomial { V p, q, dp, dq; };

template <class V> MIXAUG_INLINE Polynomial<V> horner(Polynomial<V> v, V a, V b, V c, V d) {
    const Complex<V> slope = times(v.dp, v.dq, a, b), value = times(v.p, v.q, a, b);
    return {value.x + c, value.y + d, slope.x + v.p, slope.y + v.q};
}

template <class V> MIXAUG_INLINE Complex<V> newton_step(const V* c, V rx, V ry, V a, V b, V zero, V regular) {
    Polynomial<V> v{c[0], c[1], zero, zero};
    for (int j = 2; j < 12; j += 2) v = horner(v, a, b, c[j], c[j + 1]);
    const V norm = (v.dp * v.dp + v.dq * v.dq) + regular;
    return times(rx, ry, (v.p * v.dp + v.q * v.dq) / norm, (v.q * v.dp - v.p * v.dq) / norm);
}

// --- what is kept of an orbit

template <class V, class T> MIXAUG_INLINE V stripe_term(const Stripe<T>& s, V a, V b) {
    const V aa = a * a, bb = b * b, ab = a * b;
    const V c = (s.ux * (aa - bb) + s.uy * (ab + ab)) / ((aa + bb) + s.tiny);
    const V cc = c * c;
    return c + s.harmonic * (((cc + cc) - s.one) - c);
}

template <class T, int W> struct Block {
    using L = Lanes<T, W>;
    using V = typename L::V;
    using M = typename L::M;

    const T* k;
    Trap<T> trap;
    Stripe<T> stripe;
    T limit;

    struct Orbit { V a, b, near, when, total, count, hu, hv; };

    static MIXAUG_INLINE Orbit load(const T* s) {
        return {L::load(s + X), L::load(s + Y), L::load(s + NEAR), L::load(s + WHEN),
                L::load(s + TOTAL), L::load(s + COUNT), L::load(s + HU), L::load(s + HV)};
    }

    // The point after a step and what is kept of its orbit; a lane that has ended stays as it is.
    MIXAUG_INLINE void note(M alive, V new_a, V new_b, Orbit& o) const {
        o.a = alive ? new_a : o.a;
        o.b = alive ? new_b : o.b;
        o.count = alive ? o.count + stripe.one : o.count;
        const V p = o.a - trap.x, q = o.b - trap.y;
        const V along = p * trap.ux + q * trap.uy, across = q * trap.ux - p * trap.uy;
        const V u = L::abs(along), v = trap.side * L::abs(across);
        const V low = u < v ? u : v, high = u < v ? v : u;
        const V d = L::abs(((trap.low * low + trap.high * high) + trap.round * L::sqrt(u * u + v * v)) - trap.radius);
        const M nearer = d < o.near;
        o.when = nearer ? o.count : o.when;
        o.near = nearer ? d : o.near;
        const M hit = (d < trap.reach) & (o.hu >= trap.far);
        o.hu = hit ? along : o.hu;
        o.hv = hit ? across : o.hv;
        const V more = o.total + stripe_term(stripe, o.a, o.b);
        o.total = alive ? more : o.total;
    }

    // Writes lanes back after a block and marks those whose orbit ended: 1 out, -1 at the limit, -2 in a cycle.
    MIXAUG_INLINE void close(T* s, const Orbit& o, M out) const {
        L::store(s + X, o.a);
        L::store(s + Y, o.b);
        L::store(s + NEAR, o.near);
        L::store(s + WHEN, o.when);
        L::store(s + TOTAL, o.total);
        L::store(s + COUNT, o.count);
        L::store(s + HU, o.hu);
        L::store(s + HV, o.hv);
        const V sx = L::load(s + SX), sy = L::load(s + SY), following = L::load(s + NEXT);
        const M cycle = L::abs(o.a - sx) + L::abs(o.b - sy) < k[RETURN];
        const M save = (o.count >= following) & (cycle == 0);
        L::store(s + SX, save ? o.a : sx);
        L::store(s + SY, save ? o.b : sy);
        L::store(s + SAVED, save ? o.total : L::load(s + SAVED));
        L::store(s + NEXT, save ? o.count + o.count : following);
        const V one = L::all(k[ONE]), at_limit = o.count >= limit ? -one : one - one;
        const V mark = cycle ? -one - one : at_limit;
        L::store(s + MARK, out ? one : mark);
    }

    // z^2 + c; (|x| + i |y|)^2 + c, the Burning Ship; conj(z)^2 + c, the Tricorn.
    template <bool FOLDED> MIXAUG_INLINE void square(T* s, bool fold, bool conj) const {
        Orbit o = load(s);
        const V cx = L::load(s + CX), cy = L::load(s + CY);
        for (int step = 0; step < BLOCK; step++) {
            const V aa = o.a * o.a, bb = o.b * o.b;
            V ab = o.a * o.b;
            if (FOLDED) {
                if (fold) ab = L::abs(ab);
                if (conj) ab = -ab;
            }
            const M alive = (aa + bb <= k[ESCAPE]) & (o.count < limit);
            note(alive, (aa - bb) + cx, (ab + ab) + cy, o);
        }
        close(s, o, (o.a * o.a + o.b * o.b <= k[ESCAPE]) == 0);
    }

    // z^degree + c.
    template <int D> MIXAUG_INLINE void powers(T* s) const {
        Orbit o = load(s);
        const V cx = L::load(s + CX), cy = L::load(s + CY);
        for (int step = 0; step < BLOCK; step++) {
            const M alive = (o.a * o.a + o.b * o.b <= k[ESCAPE]) & (o.count < limit);
            const Complex<V> p = power(D, o.a, o.b);
            note(alive, p.x + cx, p.y + cy, o);
        }
        close(s, o, (o.a * o.a + o.b * o.b <= k[ESCAPE]) == 0);
    }

    // z^2 + c + p z_before.
    MIXAUG_INLINE void phoenix(T* s) const {
        Orbit o = load(s);
        V oa = L::load(s + OX), ob = L::load(s + OY);
        const V cx = L::load(s + CX), cy = L::load(s + CY);
        const T px = k[7], py = k[8];
        for (int step = 0; step < BLOCK; step++) {
            const V aa = o.a * o.a, bb = o.b * o.b, ab = o.a * o.b;
            const M alive = (aa + bb <= k[ESCAPE]) & (o.count < limit);
            const V p = (aa - bb) + (cx + (px * oa - py * ob)), q = (ab + ab) + (cy + (px * ob + py * oa));
            oa = alive ? o.a : oa;
            ob = alive ? o.b : ob;
            note(alive, p, q, o);
        }
        L::store(s + OX, oa);
        L::store(s + OY, ob);
        close(s, o, (o.a * o.a + o.b * o.b <= k[ESCAPE]) == 0);
    }

    // z^degree + c / z^m.
    MIXAUG_INLINE void poles(T* s, i64 degree, i64 m) const {
        Orbit o = load(s);
        const V cx = L::load(s + CX), cy = L::load(s + CY), tiny = L::all(k[TINY]);
        for (int step = 0; step < SHORT_BLOCK; step++) {
            const M alive = (o.a * o.a + o.b * o.b <= k[ESCAPE]) & (o.count < limit);
            const Complex<V> p = power(degree, o.a, o.b), r = pole(m, o.a, o.b, cx, cy, tiny);
            note(alive, p.x + r.x, p.y + r.y, o);
        }
        close(s, o, (o.a * o.a + o.b * o.b <= k[ESCAPE]) == 0);
    }

    // z - r p(z) / p'(z) + c. ox and oy hold the squared length of the last step and of the one before.
    MIXAUG_INLINE void newton(T* s) const {
        Orbit o = load(s);
        V length = L::load(s + OX), before = L::load(s + OY), c[12];
        for (int j = 0; j < 12; j++) c[j] = L::all(k[30 + j]);
        const V cx = L::load(s + CX), cy = L::load(s + CY), rx = L::all(k[7]), ry = L::all(k[8]);
        const V regular = L::all(k[REGULAR]), zero = L::all(k[ONE] - k[ONE]);
        for (int step = 0; step < SHORT_BLOCK; step++) {
            const M alive = (length > k[TOLERANCE]) & (o.count < limit);
            const Complex<V> change = newton_step(c, rx, ry, o.a, o.b, zero, regular);
            const V p = (o.a - change.x) + cx, q = (o.b - change.y) + cy;
            const V da = p - o.a, db = q - o.b;
            before = alive ? length : before;
            length = alive ? da * da + db * db : length;
            note(alive, p, q, o);
        }
        L::store(s + OX, length);
        L::store(s + OY, before);
        close(s, o, (length > k[TOLERANCE]) == 0);
    }
};

// --- following the orbits of a band

// The next sample of the band, row by row.
struct Cursor { i64 fresh, row, column; };

template <class T> inline void start(const RenderArgs& g, const T* k, T* s, int i, i64 side, Cursor& at) {
    const double* f = g.floats;
    const double u = ((at.column + 0.5) / side - 0.5) * f[4], v = ((at.row + 0.5) / side - 0.5) * f[4];
    const double a = f[0] + (u * f[2] - v * f[3]), b = f[1] + (u * f[3] + v * f[2]);
    const bool plane = g.ints[PARAMETER_PLANE] == 1;
    s[i + X] = static_cast<T>(plane ? f[5] : a);
    s[i + Y] = static_cast<T>(plane ? f[6] : b);
    s[i + CX] = static_cast<T>(plane ? a : f[5]);
    s[i + CY] = static_cast<T>(plane ? b : f[6]);
    const T far = k[FAR_AWAY], zero = k[ONE] - k[ONE], old = g.ints[FAMILY] == NEWTON ? far : zero;
    s[i + OX] = s[i + OY] = old;
    s[i + NEAR] = s[i + HU] = s[i + HV] = s[i + SX] = s[i + SY] = far;
    s[i + WHEN] = s[i + TOTAL] = s[i + COUNT] = s[i + SAVED] = s[i + MARK] = zero;
    s[i + NEXT] = k[EIGHT];
    at.fresh++;
    if (++at.column == side) at.column = 0, at.row++;
}

// A few steps of `n` lanes; n is rounded up to whole vectors, the lanes behind it are at rest.
template <class T, int W> MIXAUG_INLINE void steps(const i64* ints, const Block<T, W>& block, T* s, int n) {
    const i64 degree = ints[DEGREE];
    const bool fold = ints[FOLD] == 1, conj = ints[CONJ] == 1;
    T* const end = s + n;
    if (ints[FAMILY] == PHOENIX)
        for (; s < end; s += W) block.phoenix(s);
    else if (ints[FAMILY] == POLE)
        for (; s < end; s += W) block.poles(s, degree, ints[POLE_POWER]);
    else if (ints[FAMILY] == NEWTON)
        for (; s < end; s += W) block.newton(s);
    else if (degree == 3)
        for (; s < end; s += W) block.template powers<3>(s);
    else if (degree == 4)
        for (; s < end; s += W) block.template powers<4>(s);
    else if (degree == 5)
        for (; s < end; s += W) block.template powers<5>(s);
    else if (fold || conj)
        for (; s < end; s += W) block.template square<true>(s, fold, conj);
    else
        for (; s < end; s += W) block.template square<false>(s, false, false);
}

// Summaries of the samples: `orbit` (10, samples) float32.
template <class T, int W> MIXAUG_INLINE void follow(const RenderArgs& g, float* orbit, i64 samples) {
    const T* k = static_cast<const T*>(g.numbers);
    T s[VALUES * LANES] = {};
    i64 place[LANES] = {};
    const i64 side = g.size * g.samples;
    const T most = static_cast<T>(k[ONE] * static_cast<double>(g.limit));
    const bool image = k[REACH] > T(0), newton = g.ints[FAMILY] == NEWTON;
    for (int i = 0; i < LANES; i++) s[i + COUNT] = most, s[i + MARK] = k[ONE];
    Cursor at{0, g.first * g.samples, 0};
    int n = 0;
    while (n < LANES && at.fresh < samples) {
        place[n] = at.fresh;
        start(g, k, s, n++, side, at);
    }
    const Block<T, W> block{
        k,
        {k[9], k[10], k[11], k[12], k[SHAPE], k[SHAPE + 1], k[SHAPE + 2], k[SHAPE + 3], k[SHAPE + 4], k[REACH],
         k[FAR_AWAY]},
        {k[14], k[15], k[16], k[ONE], k[TINY]},
        most};
    while (n > 0) {
        steps(g.ints, block, s, n);
        for (int i = 0; i < n;) {
            const T mark = s[i + MARK];
            if (mark == T(0)) {
                i++;
                continue;
            }
            const i64 j = place[i];
            double total = s[i + TOTAL], count = s[i + COUNT];
            if (mark < T(-1.5)) {  // the steps that are left would go round the cycle
                const T round_steps = s[i + COUNT] - s[i + NEXT] / k[TWO];
                const T mean = (s[i + TOTAL] - s[i + SAVED]) / round_steps;
                total += (static_cast<double>(most) - count) * static_cast<double>(mean);
                count = most;
            }
            orbit[j] = static_cast<float>(mark > T(0) ? count : -count);
            orbit[samples + j] = static_cast<float>(s[i + X]);
            orbit[2 * samples + j] = static_cast<float>(s[i + Y]);
            orbit[3 * samples + j] = static_cast<float>(s[i + NEAR]);
            orbit[4 * samples + j] = static_cast<float>(s[i + WHEN]);
            orbit[5 * samples + j] = static_cast<float>(total);
            if (image) {
                orbit[6 * samples + j] = static_cast<float>(s[i + HU]);
                orbit[7 * samples + j] = static_cast<float>(s[i + HV]);
            }
            if (newton) {
                orbit[8 * samples + j] = static_cast<float>(s[i + OX]);
                orbit[9 * samples + j] = static_cast<float>(s[i + OY]);
            }
            if (at.fresh < samples) {
                place[i] = at.fresh;
                start(g, k, s, i++, side, at);
                continue;
            }
            n--;  // the last live lane moves into the free one; it is looked at next
            for (int value = 0; value < VALUES; value++) s[value * LANES + i] = s[value * LANES + n];
            place[i] = place[n];
        }
    }
}

// --- colours, all in float32

constexpr float FADE = 1.0e-3f, DEPTH = 1.0e-4f, FLAT = 1.0e-12f, ESCAPE32 = 1.0e4f;
constexpr float LOG2_ESCAPE = 13.287712379549449f, LOG2_TOLERANCE = -19.931568569324174f;
constexpr float SQRT_HALF = 0.7071067811865476f, TWO_OVER_LN2 = 2.8853900817779268f;
constexpr float THIRD = 1.0 / 3.0, FIFTH = 0.2f, SEVENTH = 1.0 / 7.0, NINTH = 1.0 / 9.0;

inline float log2_of(float value) {
    i32 bits;
    std::memcpy(&bits, &value, 4);
    const i32 mantissa = (bits & ((1 << 23) - 1)) | (126 << 23);
    float m;
    std::memcpy(&m, &mantissa, 4);
    const float t = (m - SQRT_HALF) / (m + SQRT_HALF), t2 = t * t;
    const float series = t * (1.0f + t2 * (THIRD + t2 * (FIFTH + t2 * (SEVENTH + t2 * NINTH))));
    const float exponent = static_cast<float>((bits >> 23) - 126);
    return (exponent - 0.5f) + TWO_OVER_LN2 * series;
}

inline float unit(float p) {
    p = p < 0.0f ? 0.0f : p;
    return p > 1.0f ? 1.0f : p;
}

// What a row of samples needs while it is painted.
struct Row {
    float *base, *glow, *weights, *shade, *mean, *part, *over[3], *tables[2][3];
    i32 *under_at, *over_at;
};

inline void smooth_part(bool newton, float log2_degree, const float* orbit, i64 samples, int n, float* part) {
    if (newton) {
        const float *length = orbit + 8 * samples, *before = orbit + 9 * samples;
        for (int i = 0; i < n; i++) {
            const float b = log2_of(length[i] + FLAT), c = log2_of(before[i] + FLAT);
            const float gap = c - b, safe = DEPTH > gap ? DEPTH : gap;
            part[i] = unit((c - LOG2_TOLERANCE) / safe);
        }
        return;
    }
    const float *x = orbit + samples, *y = orbit + 2 * samples;
    for (int i = 0; i < n; i++) {
        const float norm = x[i] * x[i] + y[i] * y[i];
        const float b = log2_of(norm > ESCAPE32 ? norm : ESCAPE32);
        part[i] = unit(1.0f - log2_of(b / LOG2_ESCAPE) / log2_degree);
    }
}

inline void places(bool newton, const float* f, float log2_degree, const float* orbit, i64 samples, int n, Row& r) {
    const float *count = orbit, *x = orbit + samples, *y = orbit + 2 * samples, *near = orbit + 3 * samples;
    const float *when = orbit + 4 * samples, *total = orbit + 5 * samples;
    float *const base = r.base, *const glow = r.glow, *const weights = r.weights, *const shade = r.shade;
    float *const mean = r.mean, *const part = r.part;
    smooth_part(newton, log2_degree, orbit, samples, n, part);
    const Stripe<float> stripe{f[14], f[15], f[16], 1.0f, FLAT};
    for (int i = 0; i < n; i++) {
        const float steps = std::fabs(count[i]), whole = total[i] / steps;
        const float last = stripe_term(stripe, x[i], y[i]);
        const float shorter = (total[i] - last) / (steps - 1.0f), before = steps > 1.5f ? shorter : whole;
        const float smooth = before + part[i] * (whole - before);
        mean[i] = count[i] > 0.0f ? smooth : whole;
    }
    const float less = newton ? 1.0f : 0.0f;
    for (int i = 0; i < n; i++) {
        const float steps = count[i], log2_near = log2_of(near[i] + DEPTH);
        const float root = std::sqrt((steps - less) + part[i]), out = steps > 0.0f ? root : 0.0f;
        const float faded = 1.0f / (1.0f + (steps * steps) * FADE), fade = steps > 0.0f ? faded : 1.0f;
        const float at_root = newton ? f[14] * x[i] + f[15] * y[i] : 0.0f;
        const float depth = -log2_near;
        float p = f[17] + (f[18] * out + fade * (f[19] * depth + (f[20] * mean[i] + (f[21] * when[i]))));
        p = p + f[22] * at_root;
        const float g = f[23] + (f[24] * depth + fade * (f[25] * mean[i] + f[26] * when[i]));
        shade[i] = 1.0f - (fade * f[29]) * (0.5f - 0.5f * mean[i]);
        base[i] = p - std::floor(p);
        glow[i] = g - std::floor(g);
        const float ratio = near[i] / f[27];
        weights[i] = 1.0f / (1.0f + ratio * ratio);
    }
}

inline void tabulate(const double* palette, float* const* table) {
    constexpr int entries = 256;
    for (int k = 0; k < TABLE; k++) {
        const double place = (k + 0.5) * entries / TABLE;
        const int low = static_cast<int>(place), high = low + 1 < entries ? low + 1 : 0;
        const double part = place - low;
        for (int c = 0; c < 3; c++)
            table[c][k] = static_cast<float>(palette[3 * low + c] + part * (palette[3 * high + c] - palette[3 * low + c]));
    }
}

inline void paint_image(const float* f, const u8* bitmap, const float* orbit, i64 samples, int n, Row& r) {
    constexpr int SIDE = 64;
    const float *hu = orbit + 6 * samples, *hv = orbit + 7 * samples;
    const float half = static_cast<float>(SIDE - 1) * 0.5f;
    for (int i = 0; i < n; i++) {
        const float u = hu[i] / f[13], v = hv[i] / f[13];
        if (!(std::fabs(u) <= 1.0f && std::fabs(v) <= 1.0f)) {
            r.weights[i] = 0.0f;
            for (int c = 0; c < 3; c++) r.over[c][i] = 0.0f;
            continue;
        }
        const float p = (u + 1.0f) * half, q = (v + 1.0f) * half;
        const int column = static_cast<int>(p), row = static_cast<int>(q);
        const float a = p - static_cast<float>(column), b = q - static_cast<float>(row);
        const int right = column + 1 < SIDE ? column + 1 : SIDE - 1, below = row + 1 < SIDE ? row + 1 : SIDE - 1;
        for (int c = 0; c < 4; c++) {
            const float one = bitmap[(row * SIDE + column) * 4 + c], two = bitmap[(row * SIDE + right) * 4 + c];
            const float three = bitmap[(below * SIDE + column) * 4 + c], four = bitmap[(below * SIDE + right) * 4 + c];
            const float top = one + a * (two - one), low = three + a * (four - three);
            const float value = top + b * (low - top);
            if (c == 3) r.weights[i] = value / 255.0f;
            else r.over[c][i] = value;
        }
    }
}

inline void paint(const float* f, bool image, int n, Row& r) {
    const float entries = TABLE;
    const auto entry = [entries](float place) {  // a tiny negative number minus its floor rounds to 1; NaN is 0
        const float at = place * entries, safe = at > 0.0f ? at : 0.0f;
        return static_cast<i32>(safe < TABLE - 1 ? safe : TABLE - 1);
    };
    for (int i = 0; i < n; i++) {
        r.under_at[i] = entry(r.base[i]);
        r.over_at[i] = entry(r.glow[i]);
        const float w2 = r.weights[i] * r.weights[i];
        r.mean[i] = image ? 0.0f : f[28] * (w2 * w2);  // the shine
    }
    for (int c = 0; c < 3; c++) {
        const float *first = r.tables[0][c], *second = r.tables[1][c];
        float* colour = r.over[c];
        for (int i = 0; i < n; i++) {
            const float glow = image ? colour[i] : second[r.over_at[i]], w = r.weights[i];
            const float value = ((1.0f - w) * first[r.under_at[i]] + w * glow) * r.shade[i];
            colour[i] = value + r.mean[i] * (255.0f - value);
        }
    }
}

inline void paint_rows(const RenderArgs& g, const float* orbit, i64 samples, float* memory, i32* whole) {
    const int side = static_cast<int>(g.size * g.samples), size = static_cast<int>(g.size);
    Row r;
    for (float** row : {&r.base, &r.glow, &r.weights, &r.shade, &r.mean, &r.part, &r.over[0], &r.over[1], &r.over[2]}) {
        *row = memory;
        memory += side;
    }
    for (int t = 0; t < 2; t++)
        for (int c = 0; c < 3; c++) {
            r.tables[t][c] = memory;
            memory += TABLE;
        }
    float* sums = memory;  // (3, size)
    r.under_at = whole;
    r.over_at = whole + side;
    tabulate(g.palettes, r.tables[0]);
    tabulate(g.palettes + 256 * 3, r.tables[1]);
    const bool newton = g.ints[FAMILY] == NEWTON, image = g.image != 0;
    const float log2_degree = log2_of(static_cast<float>(g.ints[DEGREE]));
    const float share = 1.0f / static_cast<float>(g.samples * g.samples);
    const float* part = orbit;
    for (i64 row = 0; row < g.rows; row++) {
        for (int i = 0; i < 3 * size; i++) sums[i] = 0.0f;
        for (i64 sub = 0; sub < g.samples; sub++, part += side) {
            places(newton, g.colouring, log2_degree, part, samples, side, r);
            if (image) paint_image(g.colouring, g.bitmap, part, samples, side, r);
            paint(g.colouring, image, side, r);
            for (int c = 0; c < 3; c++)
                for (i64 k = 0; k < g.samples; k++)
                    for (int i = 0; i < size; i++) sums[c * size + i] += r.over[c][i * g.samples + k];
        }
        for (int c = 0; c < 3; c++)
            for (int i = 0; i < size; i++) {
                float value = sums[c * size + i] * share + 0.5f;
                value = value > 0.0f ? value : 0.0f;
                g.out[c * g.plane + row * size + i] = static_cast<u8>(value < 255.0f ? value : 255.0f);
            }
    }
}

// All of the picture's rows; MIXAUG_BYTES are those of a vector.
void render(const RenderArgs& g, float* orbit, i64 samples, float* memory, i32* whole) {
    if (g.deep) follow<double, WIDTH<double>>(g, orbit, samples);
    else follow<float, WIDTH<float>>(g, orbit, samples);
    paint_rows(g, orbit, samples, memory, whole);
}
