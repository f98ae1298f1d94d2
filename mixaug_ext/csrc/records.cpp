// Range checks of a record's tensors: all fields in one call, before any kernel is given their pointers.
//
// A record is a dozen small tensors. One reduction each in PyTorch is 100 us for 128 images, this 5.

#include "composite.h"  // MIXAUG_API

namespace {

using i64 = std::int64_t;

enum Kind : i64 { INTS, FLOATS, SIGNS, BOXES };

// Mirrors mixaug_ext/_records.py: 64-bit words in this order.
struct RecordField {
    const void* data;  // contiguous: int64, of FLOATS float32
    i64 count, kind;
    i64 low, high;       // INTS: both allowed; BOXES: height and width of the image
    double least, most;  // FLOATS: both allowed
};

bool fits(const RecordField& f) {
    const auto* ints = static_cast<const i64*>(f.data);
    const auto* floats = static_cast<const float*>(f.data);
    bool good = true;  // no early end: the loops stay free of branches
    switch (f.kind) {
        case INTS:
            for (i64 i = 0; i < f.count; i++) good &= (ints[i] >= f.low) & (ints[i] <= f.high);
            return good;
        case FLOATS: {
            const double least = f.least, most = f.most;
            for (i64 i = 0; i < f.count; i++) {
                const double value = static_cast<double>(floats[i]);
                good &= (value >= least) & (value <= most);  // a NaN is neither
            }
            return good;
        }
        case SIGNS:
            for (i64 i = 0; i < f.count; i++) good &= (ints[i] == 1) | (ints[i] == -1);
            return good;
        case BOXES:
            for (i64 i = 0; i + 4 <= f.count; i += 4) {
                const i64 *p = ints + i;
                good &= (p[0] >= 0) & (p[0] <= p[2]) & (p[2] <= f.high) & (p[1] >= 0) & (p[1] <= p[3]) & (p[3] <= f.low);
            }
            return good;
        default: return false;
    }
}

}  // namespace

// The first field with a value out of range, or -1.
MIXAUG_API i64 mixaug_check_record(const RecordField* fields, i64 count) {
    for (i64 i = 0; i < count; i++)
        if (!fits(fields[i])) return i;
    return -1;
}
