// Dynamic MixCut's sampler and label mixing on the CPU: a batch in one call each.
//
// In PyTorch they are about fifty small tensor operations, 150 us for 128 images, more than the compositing itself. The
// arithmetic is that of mixaug/transforms/dynamic_mixcut.py and labels.py on the same uniforms, bit for bit:
// float32, one operation after the other (-ffp-contract=off).

#include "composite.h"  // MIXAUG_API

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

namespace {

using i64 = std::int64_t;

struct Interval { float from, to; };

// First and last-but-one pixels of a side: `share` of `length` at a uniform place, see _spans in Python.
inline Interval span(float share, float place, float length, bool inside) {
    float side = std::nearbyint(share * length);
    if (inside) {
        side = std::max(side, 1.0f);
        const float start = std::min(std::floor(place * (length + 1.0f - side)), length - side);
        return {start, start + side};
    }
    const float start = std::floor((place * length + 0.5f) - 0.5f * side);
    return {std::max(start, 0.0f), std::min(start + side, length)};
}

// Pixels in the union of boxes inside the image: the rows between two neighbouring edges share their columns.
i64 union_area(const i64* boxes, i64 count, std::vector<i64>& edges, std::vector<i64>& starts) {
    edges.clear();
    for (i64 i = 0; i < count; i++) edges.insert(edges.end(), {boxes[4 * i + 1], boxes[4 * i + 3]});
    std::sort(edges.begin(), edges.end());
    i64 area = 0;
    for (size_t e = 0; e + 1 < edges.size(); e++) {
        const i64 y0 = edges[e], y1 = edges[e + 1];
        if (y0 == y1) continue;
        starts.clear();  // boxes over these rows, by their first column
        for (i64 i = 0; i < count; i++)
            if (boxes[4 * i + 1] <= y0 && y1 <= boxes[4 * i + 3] && boxes[4 * i] < boxes[4 * i + 2]) starts.push_back(i);
        std::sort(starts.begin(), starts.end(), [&](i64 p, i64 q) { return boxes[4 * p] < boxes[4 * q]; });
        i64 end = 0, covered = 0;
        for (const i64 i : starts) {
            covered += std::max<i64>(0, boxes[4 * i + 2] - std::max(end, boxes[4 * i]));
            end = std::max(end, boxes[4 * i + 2]);
        }
        area += covered * (y1 - y0);
    }
    return area;
}

}  // namespace

// Mirrors mixaug_ext/_mixcut.py: 64-bit words in this order. `uniforms` are (batch, 4 + 3 high).
struct MixCutSampleArgs {
    const float* uniforms;
    i64* boxes;   // (batch, high, 4)
    i64* index;   // (2, batch)
    float* lam;   // (batch,)
    float* beta;  // (batch,)
    i64 batch, height, width, low, high, inside;
    double p, area_low, area_range;  // area: used when `inside`
};

MIXAUG_API int mixaug_mixcut_sample(const MixCutSampleArgs* args) {
    const MixCutSampleArgs& g = *args;
    try {
        std::vector<i64> cycle(static_cast<size_t>(g.batch)), edges, starts;
        const i64 columns = 4 + 3 * g.high;
        const float p = static_cast<float>(g.p), range = static_cast<float>(g.high - g.low + 1);
        const float area_low = static_cast<float>(g.area_low), area_range = static_cast<float>(g.area_range);
        const float height = static_cast<float>(g.height), width = static_cast<float>(g.width);
        const float pixels = static_cast<float>(g.height * g.width);
        for (i64 i = 0; i < g.batch; i++) {
            const float* u = g.uniforms + i * columns;
            cycle[static_cast<size_t>(i)] = i;
            i64 count = g.low + std::min(static_cast<i64>(u[2] * range), g.high - g.low);
            if (!(u[1] < p)) count = 0;
            i64* box = g.boxes + i * g.high * 4;
            std::memset(box, 0, static_cast<size_t>(g.high) * 4 * sizeof(i64));
            for (i64 j = 0; j < count; j++) {
                const float* v = u + 4 + 3 * j;
                const float share = g.inside ? v[0] * area_range + area_low : v[0];
                const float side = std::sqrt(share);
                const Interval x = span(side, v[1], width, g.inside), y = span(side, v[2], height, g.inside);
                const float corners[4] = {x.from, y.from, x.to, y.to};
                for (int k = 0; k < 4; k++) box[4 * j + k] = static_cast<i64>(corners[k]);
            }
            g.lam[i] = static_cast<float>(g.height * g.width - union_area(box, count, edges, starts)) / pixels;
            g.beta[i] = u[3];
        }
        // The cycle that orders the images by their first uniform; ties by position, as a stable argsort.
        std::stable_sort(cycle.begin(), cycle.end(), [&](i64 a, i64 b) {
            return g.uniforms[a * columns] < g.uniforms[b * columns];
        });
        for (i64 i = 0; i < g.batch; i++) {
            const i64 image = cycle[static_cast<size_t>(i)];
            g.index[image] = cycle[static_cast<size_t>((i + 1) % g.batch)];
            g.index[g.batch + image] = cycle[static_cast<size_t>((i + (g.batch == 2 ? 1 : 2)) % g.batch)];
        }
    } catch (const std::bad_alloc&) {
        return MIXAUG_NO_MEMORY;
    }
    return MIXAUG_DONE;
}

// Mirrors mixaug_ext/_mixcut.py: 64-bit words in this order.
struct MixLabelsArgs {
    const i64* labels;    // (batch,) class indices
    const float* lam;     // (batch,)
    const i64* index;     // (2, batch); null: the labels are kept
    const float* beta;    // (batch,)
    float* targets;       // (batch, classes), written
    i64 batch, classes;
    double smoothing;
};

MIXAUG_API int mixaug_mix_labels(const MixLabelsArgs* args) {
    const MixLabelsArgs& g = *args;
    const float keep = static_cast<float>(1.0 - g.smoothing);
    const float each = static_cast<float>(g.smoothing / static_cast<double>(std::max<i64>(1, g.classes)));
    for (i64 i = 0; i < g.batch; i++) {
        if (g.labels[i] < 0 || g.labels[i] >= g.classes) return MIXAUG_BAD_INDEX;
        for (i64 k = 0; g.index && k < 2; k++)
            if (g.index[k * g.batch + i] < 0 || g.index[k * g.batch + i] >= g.batch) return MIXAUG_BAD_INDEX;
    }
    for (i64 i = 0; i < g.batch; i++) {
        float* row = g.targets + i * g.classes;
        std::fill(row, row + g.classes, 0.0f);
        row[g.labels[i]] = 1.0f;
        if (g.index) {
            // At most three classes have weight; each is summed in the order of the formula.
            const i64 own = g.labels[i], one = g.labels[g.index[i]], two = g.labels[g.index[g.batch + i]];
            const float lam = g.lam[i], beta = g.beta[i];
            row[own] = 0.0f;
            for (const i64 k : {own, one, two}) {
                const float inside = (k == one ? beta : 0.0f) + (k == two ? 1.0f - beta : 0.0f);
                row[k] = (k == own ? lam : 0.0f) + (1.0f - lam) * inside;
            }
        }
        if (g.smoothing > 0.0)
            for (i64 k = 0; k < g.classes; k++) row[k] = row[k] * keep + each;
    }
    return MIXAUG_DONE;
}
