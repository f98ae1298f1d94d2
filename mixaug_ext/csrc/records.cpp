// Range checks of a record's tensors: all fields in one call, before any kernel is given their pointers.
//
// A record is a dozen small tensors. One reduction each in PyTorch is 100 us for 128 images, this 3.

#include "composite.h"  // MIXAUG_API

namespace {

using i64 = std::int64_t;
using u64 = std::uint64_t;

enum Kind : i64 { INTS, FLOATS, SIGNS, BOXES };

// Mirrors mixaug_ext/_records.py: 64-bit words in this order.
struct RecordField {
    i64 count, kind;
    i64 low, high;       // INTS: both allowed; BOXES: height and width of the image
    double least, most;  // FLOATS: both allowed
};

// Whether a number lies in [low, high], low <= high, is told by the sign bits of its distances to both, which are
// collected with OR: without a branch or a compare, so that compilers vectorise the loops (SSE2 is enough). The
// distances may wrap. They do that one at a time, and the one that does so is then negative, as it should be: from
// value < low - 2^63 follows 2^63 <= high - value < 2^64.
u64 outside(u64 value, u64 low, u64 high) { return (value - low) | (high - value); }

// data: contiguous int64, of FLOATS float32.
bool fits(const void* data, const RecordField& f) {
    const auto* ints = static_cast<const u64*>(data);
    const auto* floats = static_cast<const float*>(data);
    const auto low = static_cast<u64>(f.low), high = static_cast<u64>(f.high);
    switch (f.kind) {
        case INTS: {
            u64 bad = 0;
            for (i64 i = 0; i < f.count; i++) bad |= outside(ints[i], low, high);
            return f.low <= f.high && !(bad >> 63);
        }
        case FLOATS: {
            const auto least = static_cast<float>(f.least), most = static_cast<float>(f.most);
            std::uint32_t good = 1;
            for (i64 i = 0; i < f.count; i++) good &= (floats[i] >= least) & (floats[i] <= most);  // a NaN is neither
            return good;
        }
        case SIGNS: {
            u64 bad = 0;  // 1 + 1 or -1 + 1: every bit but the second must be 0
            for (i64 i = 0; i < f.count; i++) bad |= (ints[i] + 1) & ~u64{2};
            return bad == 0;
        }
        case BOXES: {
            const u64 most[2] = {high, low};  // of x, y
            u64 bad[2] = {0, 0};
            for (i64 i = 0; i + 4 <= f.count; i += 4)
                for (int c = 0; c < 2; c++) {
                    const u64 first = ints[i + c], end = ints[i + 2 + c];  // of two that are not negative nothing wraps
                    bad[c] |= first | end | (end - first) | (most[c] - end);
                }
            return !((bad[0] | bad[1]) >> 63);
        }
        default: return false;
    }
}

}  // namespace

// The first field with a value out of range, or -1.
MIXAUG_API i64 mixaug_check_record(const void* const* data, const RecordField* fields, i64 count) {
    for (i64 i = 0; i < count; i++)
        if (!fits(data[i], fields[i])) return i;
    return -1;
}
